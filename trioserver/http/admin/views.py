"""The administration's responses as JSON: times as RFC 3339 in UTC, durations in ms."""

from __future__ import annotations

from typing import Any

import attrs

from protocol import instant
from trioserver.auth import Inspection
from trioserver.auth.blocks import Block
from trioserver.server.inspection import ConnectionReport, TaskReport


def connection_view(report: ConnectionReport, *, tasks: bool) -> dict[str, Any]:
    """Return a connection. ``tasks``: with its tasks and its recent messages."""
    statistics = attrs.asdict(report.statistics)
    round_trip = statistics.pop("round_trip")
    shown = {
        "id": report.id,
        "phase": report.phase,
        "user": report.user,
        "token_id": report.token_id,
        "expires_at": _instant(report.expires_at),
        "route": report.route,
        "resource": dict(report.resource),
        "address": report.address,
        "age_ms": round(report.age * 1000),
        "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 3),
        **statistics,
    }
    if tasks:
        shown["recent_messages"] = list(report.recent)
        shown["tasks"] = [_task(task) for task in report.tasks]
    return shown


def _task(task: TaskReport) -> dict[str, Any]:
    return {"name": task.name, "children": [_task(child) for child in task.children]}


def block_view(block: Block, *, stored: bool) -> dict[str, Any]:
    """Return a block. ``stored``: it survives a restart."""
    return {
        "id": block.id,
        "user": block.user,
        "token_id": block.token_id,
        "sid": block.sid,
        "resource": None if block.resource is None else dict(block.resource),
        "until": _instant(block.until),
        "reason": block.reason,
        "actor": block.actor,
        "created_at": _instant(block.created_at),
        "stored": stored,
    }


def inspection_view(inspection: Inspection) -> dict[str, Any]:
    """Return the contents of a token, and whether the server accepts it."""
    refusal = inspection.refusal
    left = inspection.expires_in
    return {
        "verified": inspection.verified,
        "refusal": None
        if refusal is None
        else {"code": refusal.code, "message": refusal.message, "retry": str(refusal.retry)},
        "issued_at": _instant(inspection.issued_at),
        "expires_at": _instant(inspection.expires_at),
        "expires_in_ms": None if left is None else round(left * 1000),
        "header": inspection.header,
        "claims": inspection.claims,
    }


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else instant(seconds)
