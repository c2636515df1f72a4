"""Draws the rooms of the code and the imports between them, for docs/architecture.md.

`python -m tests.docs.architecture` writes docs/architecture.svg. The rooms and their order are the
layers that pyproject.toml gives to import-linter; the imports are those of the code, type-only ones
included. A test compares the file with what this draws.
"""

from __future__ import annotations

import tomllib
from functools import cache
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Final

import attrs
import grimp

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "docs" / "architecture.svg"

_ROW: Final = 46
_BOX: Final = 32
_TEXT: Final = 350
"""Width of the column with names and descriptions, in pixels."""
_COLUMN: Final = 38
_MARGIN: Final = 16
_LABELLED: Final = 4
"""From this row on there is room for a second label, beside the box."""
_LINE: Final = 52
"""Characters of a line of a description."""

_STYLE: Final = """
svg { font: 13px system-ui, sans-serif; background: #ffffff; }
.name { font-weight: 600; font-size: 14px; fill: #1d2733; }
.text { fill: #4a5766; font-size: 12px; }
.box { fill: #e4eefb; stroke: #2563b0; }
.row { stroke: #c6ced8; }
.down { stroke: #2563b0; fill: none; }
.dot { fill: #2563b0; }
.up { stroke: #c62828; fill: #c62828; }
@media (prefers-color-scheme: dark) {
  svg { background: #14191f; }
  .name { fill: #e8edf3; } .text { fill: #aab6c3; }
  .box { fill: #1d3250; stroke: #7fb2f0; }
  .row { stroke: #3a4552; } .down { stroke: #7fb2f0; } .dot { fill: #7fb2f0; }
}
"""


@attrs.frozen
class Room:
    """A folder of the code, with the first sentence of its package's docstring."""

    package: str
    description: str

    @property
    def name(self) -> str:
        return self.package.removeprefix("trioserver.") + "/"


def rooms() -> tuple[Room, ...]:
    """The rooms from top to bottom, in the order of the layers in pyproject.toml."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = configuration["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return tuple(Room(package, _description(package)) for package in layers)


@cache
def import_graph(*packages: str) -> grimp.ImportGraph:
    """The imports between modules of the packages, type-only ones included."""
    return grimp.build_graph(*packages, cache_dir=None)


def imports() -> set[tuple[str, str]]:
    """Which rooms import modules of which others: pairs of importer and imported."""
    packages = [room.package for room in rooms()]
    graph = import_graph("trioserver", "protocol")
    found: set[tuple[str, str]] = set()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            origin, target = _room_of(importer, packages), _room_of(imported, packages)
            if origin is not None and target is not None and origin != target:
                found.add((origin, target))
    return found


def draw() -> str:
    """The picture as SVG: a row for each room, and in its row a dot for each room it imports.

    The line below a dot leads down to the imported room. An import that runs up is drawn in red.
    """
    all_rooms, arrows = rooms(), imports()
    place = {room.package: number for number, room in enumerate(all_rooms)}
    width = _TEXT + _COLUMN * len(all_rooms) + _MARGIN
    height = _ROW * len(all_rooms) + 2 * _MARGIN
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="The rooms of the code and their imports">',
        f"<style>{_STYLE}</style>",
    ]
    for room in all_rooms:
        shapes += _room(room, place[room.package])
    shapes += _arrows(arrows, place)
    return "\n".join([*shapes, "</svg>", ""])


def _room(room: Room, row: int) -> list[str]:
    x, y = _x(row), _y(row)
    lines = _wrapped(room.description)
    texts = [
        f'<text class="text" x="{_MARGIN + 96}" y="{y + 4 + 15 * (n - (len(lines) - 1) / 2):g}">'
        f"{escape(line)}</text>"
        for n, line in enumerate(lines)
    ]
    label = f'<text class="text" x="{x - _COLUMN // 2 - 4}" y="{y + 4}" text-anchor="end">'
    return [
        f'<text class="name" x="{_MARGIN}" y="{y + 5}">{escape(room.name)}</text>',
        *texts,
        *([f"{label}{escape(room.name)}</text>"] if row >= _LABELLED else []),
        f'<rect class="box" x="{x - _COLUMN // 2 + 3}" y="{y - _BOX // 2}" '
        f'width="{_COLUMN - 6}" height="{_BOX}" rx="5"/>',
    ]


def _arrows(arrows: set[tuple[str, str]], place: dict[str, int]) -> list[str]:
    lines, dots = [], []
    for package, row in place.items():
        targets = [place[to] for (origin, to) in arrows if origin == package]
        users = [place[origin] for (origin, to) in arrows if to == package]
        if targets and max(targets) > row:
            end = _x(max(targets))
            start = _x(row) + _COLUMN // 2 - 3
            lines.append(f'<path class="row" d="M{start} {_y(row)}H{end}"/>')
        if users and min(users) < row:
            tip = _y(row) - _BOX // 2
            lines.append(f'<path class="down" d="M{_x(row)} {_y(min(users))}V{tip - 6}"/>')
            lines.append(f'<path class="dot" d="M{_x(row) - 4} {tip - 7}h8l-4 7z"/>')
    for origin, to in sorted(arrows):
        kind = "dot" if place[origin] < place[to] else "up"
        title = f"{origin} imports {to}"
        dots.append(
            f'<circle class="{kind}" cx="{_x(place[to])}" cy="{_y(place[origin])}" r="4">'
            f"<title>{escape(title)}</title></circle>"
        )
    return lines + dots


def _x(column: int) -> int:
    return _TEXT + _MARGIN + _COLUMN * column + _COLUMN // 2


def _y(row: int) -> int:
    return _MARGIN + _ROW * row + _ROW // 2


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= _LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _description(package: str) -> str:
    docstring = import_module(package).__doc__ or ""
    sentence = " ".join(docstring.split()).partition(". ")[0].rstrip(".")
    return sentence.replace("`", "") + "."


def _room_of(module: str, packages: list[str]) -> str | None:
    for package in packages:
        if module == package or module.startswith(package + "."):
            return package
    return None


if __name__ == "__main__":
    PICTURE.write_text(draw())
