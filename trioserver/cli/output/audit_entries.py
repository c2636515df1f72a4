"""Shows rows of the audit as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trioserver.cli.output.tables import print_table


def print_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print a table, newest row first.

    ``entries`` are as `AuditEntry.as_json` returns them.
    """
    names = ("Id", "Time", "What", "Outcome", "User", "Address", "Route", "Token", "ms")
    print_table(names, map(_row, entries))


def _row(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    what = entry["kind"]
    if entry["action"]:
        what = f"{entry['action']} {_target(entry['target'])}".strip()
    elif entry.get("method") not in (None, "websocket"):
        what = f"{what}: {entry['method']} {_target(entry['target'])}".strip()
    outcome = entry["outcome"] if entry["code"] is None else f"{entry['outcome']}: {entry['code']}"
    if entry["affected"]:
        outcome += f" ({entry['affected']})"
    return (
        entry["id"],
        entry["at"],
        what,
        outcome,
        entry["user"],
        entry["address"],
        entry["route"],
        entry["token"],
        entry["duration_ms"],
    )


def _target(target: Any) -> str:
    if isinstance(target, Mapping):
        return " ".join(f"{name}={value}" for name, value in target.items())
    return str(target or "")
