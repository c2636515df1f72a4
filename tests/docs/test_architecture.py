"""docs/architecture.md: its picture is that of the code, and the files it names exist."""

from __future__ import annotations

import re

from tests.docs.architecture import PICTURE, ROOT, draw, imports, rooms

DOCUMENT = ROOT / "docs" / "architecture.md"


def test_the_picture_is_current() -> None:
    assert PICTURE.read_text() == draw(), "run `make docs`"


def test_no_import_runs_up() -> None:
    place = {room.package: number for number, room in enumerate(rooms())}
    assert not [pair for pair in imports() if place[pair[0]] > place[pair[1]]]


def test_every_folder_is_a_room() -> None:
    folders = {
        f"trioserver.{path.name}"
        for path in (ROOT / "trioserver").iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    }
    assert folders | {"protocol"} == {room.package for room in rooms()}


def test_no_module_stands_outside_of_a_room() -> None:
    loose = {path.name for path in (ROOT / "trioserver").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_the_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:trioserver|protocol|tests|docs)/[\w/.-]*)`", DOCUMENT.read_text())
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]
