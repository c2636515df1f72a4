"""Draws curves as inline SVG, readable without colours and without a mouse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import attrs

WIDTH: Final = 480
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 28, 12, 44

_DASHES: Final = ("", "7 4", "2 4", "10 4 2 4", "1 6", "14 5")
"""So that curves can be distinguished without their colours."""

Point = tuple[float, float]


@attrs.frozen
class Curve:
    """A name and its points, x ascending."""

    name: str
    points: Sequence[Point]


@attrs.frozen
class Axis:
    """``ticks``: positions and their texts. Values are drawn as their logarithm where ``log``."""

    label: str
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def position(self, value: float) -> float:
        """The position of a value, from 0 at the first tick to 1 at the last."""
        first, last = self._of(self.ticks[0][0]), self._of(self.ticks[-1][0])
        share = (self._of(value) - first) / (last - first)
        return min(max(share, 0.0), 1.0)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self.log else value


def linear(label: str, highest: float) -> Axis:
    """An axis from 0 to a round number at or above the highest value."""
    step = 10.0 ** math.floor(math.log10(max(highest, 1.0) / 4 or 1.0))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if s * 5 >= max(highest, 1.0))
    count = max(1, math.ceil(highest / step))
    return Axis(label, [(n * step, number(n * step)) for n in range(count + 1)])


def logarithmic(label: str, lowest: float, highest: float) -> Axis:
    """A logarithmic axis between the powers of ten around the values."""
    first = math.floor(math.log10(max(lowest, 1e-3)))
    last = max(first + 1, math.ceil(math.log10(max(highest, 1e-3))))
    return Axis(label, [(10.0**n, number(10.0**n)) for n in range(first, last + 1)], log=True)


def number(value: float) -> str:
    """Format a number: "2", "0.01", "25k", "3M"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def draw(id: str, title: str, description: str, x: Axis, y: Axis, curves: Sequence[Curve]) -> str:
    """An SVG element with a title and a description for screen readers."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{id}-t {id}-d">',
        f'<title id="{id}-t">{escape(title)}</title>',
        f'<desc id="{id}-d">{escape(description)}</desc>',
        *_grid(x, y),
    ]
    for index, curve in enumerate(curves):
        points = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in curve.points)
        parts.append(f'<polyline class="c{index}" {_dash(index)} points="{points}"/>')
    return "".join((*parts, "</svg>", _legend(curves)))


def _grid(x: Axis, y: Axis) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value, text in y.ticks:
        at = _y(y, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks:
        at = _x(x, value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
    )
    parts.append(
        f'<text transform="translate(12 {(_TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.label)}</text>'
    )
    return parts


def _legend(curves: Sequence[Curve]) -> str:
    items = "".join(
        f'<li><svg viewBox="0 0 32 8" width="32" height="8" aria-hidden="true">'
        f'<polyline class="c{index}" {_dash(index)} points="0,4 32,4"/></svg> '
        f"{escape(curve.name)}</li>"
        for index, curve in enumerate(curves)
    )
    return f'<ul class="legend">{items}</ul>'


def _dash(index: int) -> str:
    return f'stroke-dasharray="{_DASHES[index % len(_DASHES)]}"' if index else ""


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.position(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.position(value) * (HEIGHT - _TOP - _BOTTOM)
