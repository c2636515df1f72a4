"""No modules within a room import each other in a circle, type-only imports included.

import-linter checks the imports between the rooms; this checks those within a room.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

ROOMS = (
    "protocol",
    *(
        str(room.relative_to(_ROOT))
        for room in sorted((_ROOT / "trioserver").iterdir())
        if (room / "__init__.py").exists()
    ),
)
"""All rooms, found by their folders, so that a new one is checked too."""


def modules_of(room: Path) -> dict[str, Path]:
    """The files of a room by their module names."""
    return {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
        for path in room.rglob("*.py")
    }


def imports_of(path: Path, known: Iterable[str]) -> Iterator[str]:
    """The known modules that a file imports at any place. An import from a package counts as one
    of the module if there is a module of that name."""
    known = set(known)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [
                full if (full := f"{node.module}.{alias.name}") in known else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in known)


def circle_in(room: Path) -> list[str] | None:
    """Modules that import each other in a circle, None if there are none."""
    modules = modules_of(room)
    graph = {name: set(imports_of(path, modules)) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("room", ROOMS)
def test_no_modules_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    assert circle_in(Path(room)) is None


def test_a_type_only_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    room = Path("room")
    room.mkdir()
    guard = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    (room / "__init__.py").write_text("from room.a import A\n")
    (room / "a.py").write_text("import room.b\nclass A: ...\n")
    (room / "b.py").write_text(f"{guard}from room.a import A\n")
    assert set(circle_in(room) or ()) == {"room.a", "room.b"}
    (room / "b.py").write_text("")
    assert circle_in(room) is None


def test_all_rooms_are_checked() -> None:
    assert {"protocol", "trioserver/lifecycle", "trioserver/websocket"} <= {*ROOMS}
