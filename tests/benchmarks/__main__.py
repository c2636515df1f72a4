"""``python -m tests.benchmarks``, which `make bench` runs: measure, print, write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs
import msgspec

from tests.benchmarks import machine
from tests.benchmarks.generator import Failed
from tests.benchmarks.report import markdown
from tests.benchmarks.results import Measurement, Results
from tests.benchmarks.rows import BY_NAME as ROWS
from tests.benchmarks.rows import FULL, QUICK, Row, Scale, rounds
from tests.benchmarks.servers import BY_NAME as PEERS
from tests.benchmarks.servers import CannotStart, Peer, World

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = DOCS / "benchmarks.md"
PLOT: Final = DOCS / "benchmarks.svg"

_CORES: Final = 2

Named = TypeVar("Named")


def main() -> None:
    arguments = _arguments()
    if arguments.from_json is not None:
        results = msgspec.json.decode(arguments.from_json.read_bytes(), type=Results)
    else:
        peers = arguments.peers or list(PEERS.values())
        rows = arguments.rows or list(ROWS.values())
        scale = QUICK if arguments.quick else FULL
        if arguments.rounds is not None:
            scale = attrs.evolve(scale, rounds=arguments.rounds)
        results = run(peers, rows, scale)
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    if arguments.write:
        write(results)
    else:
        print(markdown(results, plot=None))


def write(results: Results) -> None:
    """The page and the plot, in docs."""
    from tests.benchmarks.plot import draw  # it takes a second to import

    draw(results, PLOT)
    PAGE.write_text(markdown(results, plot=PLOT.name))
    _say(f"wrote docs/{PAGE.name} and docs/{PLOT.name}")


def run(peers: Sequence[Peer], rows: Sequence[Row], scale: Scale) -> Results:
    """Measure. A server that fails is noted, and the rest goes on."""
    missing = {peer.name: peer.missing for peer in peers if peer.missing is not None}
    present = [peer for peer in peers if peer.name not in missing]
    for name, why in missing.items():
        _say(f"{name} is left out: {why}")
    if machine.core_count() < _CORES:
        _say(
            "There is one core only: server and generator take turns, and the figures mean little."
        )
    results = Results(
        quick=scale.duration < FULL.duration,
        rounds=scale.rounds,
        machine=machine.describe(),
        versions={peer.name: peer.versions for peer in present},
        missing=missing,
        measurements=[],
    )
    with World() as world:
        for row in rows:
            for number, peer in rounds(row, present, scale):
                results.measurements.append(_measure(world, row, number, peer, scale))
    return results


def _measure(world: World, row: Row, number: int, peer: Peer, scale: Scale) -> Measurement:
    name = f"{row.name}, round {number + 1} of {row.rounds(scale)}, {peer.name}"
    try:
        figures = row.measure(world, peer, scale)
    except (CannotStart, Failed) as error:
        _say(f"{name}: FAILED: {error}")
        return Measurement(row=row.name, peer=peer.name, round=number, failure=str(error))
    shown = (f"{key} {value:,.2f}" for key, value in figures.items() if _is_a_result(key))
    _say(f"{name}: {', '.join(shown)}")
    return Measurement(row=row.name, peer=peer.name, round=number, figures=figures)


def _is_a_result(key: str) -> bool:
    return key.rpartition(".")[2] in ("rate", "p99_ms", "kib", "ratio", "share", "flood_rate")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(known: Mapping[str, Named]) -> Callable[[str], list[Named]]:
    """Turns "a,b" into what goes by these names, in the order of all."""

    def parse(text: str) -> list[Named]:
        wanted = text.split(",")
        if unknown := set(wanted) - set(known):
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            )
        return [thing for name, thing in known.items() if name in wanted]

    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="less load, one round: to see that it works")
    add("--rows", type=_names(ROWS), help=f"some of {','.join(ROWS)}")
    add("--peers", type=_names(PEERS), help=f"some of {','.join(PEERS)}")
    add("--rounds", type=int, help="how often all are measured; medians are taken")
    add("--json", type=Path, metavar="FILE", help="write what was measured there, too")
    add("--from-json", type=Path, metavar="FILE", help="measure nothing: report what is in there")
    add(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write docs/benchmarks.md and .svg; without, they are written by a whole run only, "
        "and others are printed",
    )
    arguments = parser.parse_args()
    if arguments.write is None:
        partial = arguments.quick or arguments.rows or arguments.peers or arguments.from_json
        arguments.write = not partial
    return arguments


if __name__ == "__main__":
    main()
