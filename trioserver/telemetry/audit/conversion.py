"""Makes rows of the audit from what observers are told."""

from __future__ import annotations

import json
from typing import Final

from trioserver.peers.addresses import host_of
from trioserver.telemetry.audit.entry import AuditEntry, Outcome, storable
from trioserver.telemetry.observer import CLIENT_DISCONNECTED, AdminAction, AuthAttempt, Rejection

_MAX_PATH: Final = 128
"""Characters of a path over HTTP, which any client can choose."""

_MAX_TARGET: Final = 2048
"""Characters of a target."""


def of_attempt(attempt: AuthAttempt, at: float) -> AuditEntry:
    """The row for an authentication. ``route`` is the path over HTTP."""
    outcome, code = _outcome(attempt)
    connection = attempt.connection
    return AuditEntry(
        at=at,
        kind="refresh" if attempt.refresh else "attempt",
        outcome=outcome,
        code=code,
        address=storable(host_of(attempt.remote) or None),
        route=storable(attempt.path, _MAX_PATH)
        if connection is None
        else storable(connection.route.path),
        user=storable(attempt.user),
        token_id=storable(attempt.token_id),
        token=attempt.token,
        duration=attempt.duration,
        connection=None if connection is None else connection.id,
        method=storable(attempt.method),
    )


def of_rejected_origin(rejection: Rejection, at: float) -> AuditEntry:
    """The row for a page that may not connect."""
    return AuditEntry(
        at=at,
        kind="attempt",
        outcome="refused",
        code=rejection.code,
        address=storable(host_of(rejection.remote) or None),
        route=storable(rejection.path, _MAX_PATH),
        target=storable(json.dumps({"origin": rejection.origin}), _MAX_TARGET),
        method="origin",
    )


def of_admin_action(action: AdminAction, at: float) -> AuditEntry:
    """The row for an administrative action."""
    return AuditEntry(
        at=at,
        kind="admin_action",
        outcome="done" if action.code is None else "refused",
        code=storable(action.code),
        address=storable(host_of(action.remote) or None),
        route=storable(action.path),
        user=storable(action.actor or None),
        token_id=storable(action.token_id),
        token=action.token,
        duration=action.duration,
        action=storable(action.name),
        target=storable(json.dumps(dict(action.target)), _MAX_TARGET) if action.target else None,
        affected=action.affected,
    )


def _outcome(attempt: AuthAttempt) -> tuple[Outcome, str | None]:
    if attempt.code is None:
        return ("refreshed" if attempt.refresh else "accepted"), None
    if attempt.code == CLIENT_DISCONNECTED and attempt.connection is not None:
        return CLIENT_DISCONNECTED, None
    return "refused", storable(attempt.code)
