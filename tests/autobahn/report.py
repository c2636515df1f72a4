"""What Autobahn's report says, and whether that is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

GROUPS: Final = {
    "1": "Framing",
    "2": "Ping and Pong",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Close",
    "9": "Limits",
    "10": "Auto-fragmentation",
}
"""8 is empty; 12 and 13 are about compression, which is not spoken here."""

CASES: Final = 301
"""How many there are in these groups: one that is missing in a report has not passed."""

_NON_STRICT: Final = ("3.2", "3.3", "4.1.4", "4.2.3", "5.15")
"""Those in which trio-websocket itself is not strict."""

_COLUMNS: Final = ("OK", "NON-STRICT", "INFORMATIONAL")


@attrs.frozen
class Result:
    """How a case ended; ``close`` is about the closing handshake, in the same words."""

    case: str
    behavior: str
    close: str

    @property
    def group(self) -> str:
        return self.case.partition(".")[0]

    @property
    def is_good(self) -> bool:
        """Whether trio-websocket does no better."""
        if self.close not in ("OK", "INFORMATIONAL"):
            return False
        if self.behavior == "NON-STRICT":
            return self.case in _NON_STRICT
        return self.behavior in ("OK", "INFORMATIONAL")


def read_report(cases: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """The results of one server, from its part of ``index.json``, in the order of the cases."""
    results = (
        Result(case, told["behavior"], told["behaviorClose"]) for case, told in cases.items()
    )
    return sorted(results, key=lambda result: [int(part) for part in result.case.split(".")])


def complaints(results: Iterable[Result]) -> list[str]:
    """What is not good enough, a line each."""
    results = list(results)
    lines = [_line(result) for result in results if not result.is_good]
    if len(results) != CASES:
        lines.append(f"{len(results)} cases were run, and there are {CASES}")
    return lines


def table(results: Iterable[Result]) -> Iterator[str]:
    """How many ended how, a line for each group; then each case that is not simply OK."""
    results = list(results)
    yield _row("", [*_COLUMNS, "other"])
    for group, title in GROUPS.items():
        yield _row(f"{group:>2} {title}", _counts(r for r in results if r.group == group))
    yield _row("   all", _counts(results))
    yield from (_line(it) for it in results if (it.behavior, it.close) != ("OK", "OK"))


def _counts(results: Iterable[Result]) -> list[str]:
    behaviors = Counter(result.behavior for result in results)
    known = [behaviors.pop(name, 0) for name in _COLUMNS]
    return [str(count or "-") for count in (*known, behaviors.total())]


def _row(title: str, cells: Iterable[str]) -> str:
    return f"{title:<24}" + "".join(f"{cell:>15}" for cell in cells)


def _line(result: Result) -> str:
    verdict = "" if result.is_good else ": worse than trio-websocket"
    return f"{result.case} is {result.behavior}, its close {result.close}{verdict}"
