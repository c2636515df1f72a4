"""No modules within a room import each other in a circle, type-only imports included.

import-linter checks the imports between the rooms; this checks those within a room.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.docs.architecture import import_graph, rooms

ROOMS = tuple(room.package for room in rooms())


def circle_in(room: str, graph: grimp.ImportGraph) -> list[str] | None:
    """Modules of a room that import each other in a circle, None if there are none."""
    modules = {room, *graph.find_descendants(room)}
    inside = {name: graph.find_modules_directly_imported_by(name) & modules for name in modules}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("room", ROOMS)
def test_no_modules_of_a_room_import_each_other_in_a_circle(room: str) -> None:
    assert circle_in(room, import_graph("trioserver", "protocol")) is None


def test_a_type_only_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    room = tmp_path / "circular"
    room.mkdir()
    guard = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    (room / "__init__.py").write_text("from circular.a import A\n")
    (room / "a.py").write_text("import circular.b\nclass A: ...\n")
    (room / "b.py").write_text(f"{guard}from circular.a import A\n")
    found = circle_in("circular", grimp.build_graph("circular", cache_dir=None))
    assert set(found or ()) == {"circular.a", "circular.b"}
    (room / "b.py").write_text("")
    assert circle_in("circular", grimp.build_graph("circular", cache_dir=None)) is None


def test_all_rooms_are_checked() -> None:
    assert {"protocol", "trioserver.lifecycle", "trioserver.websocket"} <= {*ROOMS}
