"""Draws docs/benchmarks.svg: bars for the rows with one figure, curves for those that grow."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from tests.benchmarks.goals import OURS
from tests.benchmarks.results import Results
from tests.benchmarks.servers import BY_NAME

_BARS: Final = (
    ("request", "d1.rate", "request to ack, D=1, msg/s"),
    ("request", "d16.rate", "request to ack, D=16, msg/s"),
    ("fanout", "rate", "fan-out, deliveries/s"),
    ("storm", "rate", "storm, ready/s"),
    ("memory", "kib", "memory, KiB a connection (less is better)"),
)

_CURVES: Final = (("connections", "msg/s by connections"), ("sizes", "msg/s by bytes of a message"))

_OURS: Final = "#1b6ca8"
_THEIRS: Final = "#b8c4ce"


def draw(results: Results, path: Path) -> None:
    """Write the picture; the same results give the same file."""
    mpl.rcParams.update({"svg.hashsalt": "trioserver", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(4, 2, figsize=(10, 12), layout="constrained")
    places = list(axes.flat)
    for row, name, title in _BARS:
        _bars(places.pop(0), results, row, name, title)
    for row, title in _CURVES:
        _curves(places.pop(0), results, row, title)
    for unused in places:
        unused.set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axes: Axes, results: Results, row: str, figure: str, title: str) -> None:
    found = {peer: results.median(row, peer, figure) for peer in reversed(BY_NAME)}
    values = {peer: value for peer, value in found.items() if value is not None}
    labels = [BY_NAME[peer].label.replace("`", "") for peer in values]
    colours = [_OURS if peer.startswith(OURS) else _THEIRS for peer in values]
    bars = axes.barh(labels, list(values.values()), color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.margins(x=0.15)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_visible(False)


def _curves(axes: Axes, results: Results, row: str, title: str) -> None:
    loads = [name for name in results.figures(row) if name.endswith(".rate")]
    for peer in BY_NAME:
        points = [(int(name.partition(".")[0]), results.median(row, peer, name)) for name in loads]
        known = [(x, y) for x, y in points if y is not None]
        if known:
            width = 2.5 if peer.startswith(OURS) else 1.0
            label = BY_NAME[peer].label.replace("`", "")
            axes.loglog(*zip(*known, strict=True), marker="o", linewidth=width, label=label)
    axes.set_title(title, loc="left")
    axes.grid(visible=True, alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7)
