"""How many rows strangers, and each client, may cause: a flood must fill neither disk nor queue.

Administrative acts have no bound here. What a user whose token was good does is bounded for each
user, so that nobody else can use it up. All else is bounded for each address, and for all together.
"""

from __future__ import annotations

from typing import Final

import attrs

from trioserver.config import AuditConfig
from trioserver.logs.source_limiter import OTHERS, SourceLimiter
from trioserver.telemetry.audit.entry import AuditEntry, Kind, Outcome

BURST: Final = 60.0
"""Seconds' worth of rows that may come at once."""

_SAME_TOKEN: Final = 600.0
"""Seconds in which a bearer token that is accepted again and again, from one address, is one row:
over HTTP each request is an authentication."""


@attrs.frozen
class _Kind:
    """What suppressed rows have in common. ``by_user``: their source is a user, not an address."""

    kind: Kind
    outcome: Outcome
    code: str | None
    method: str | None
    by_user: bool


class Quotas:
    """Says which rows are kept, and makes the rows that tell of the others."""

    def __init__(self, config: AuditConfig) -> None:
        self._strangers = SourceLimiter(config.rows_per_source, config.rows_per_second, burst=BURST)
        self._users = SourceLimiter(config.rows_per_source, burst=BURST)
        self._bearers = SourceLimiter(1 / _SAME_TOKEN, burst=_SAME_TOKEN)

    def allow(self, entry: AuditEntry, now: float, *, is_full: bool) -> bool:
        """Whether a row is kept. ``is_full``: the rest of the queue is for rows that matter."""
        if matters(entry):
            return True
        if entry.outcome == "accepted" and entry.method == "bearer":
            key = f"{entry.user} {entry.token} {entry.address}"
            if not self._bearers.allow(key, None, now):
                self._users.suppress(entry.user or OTHERS, _kind_of(entry, by_user=True))
                return False
        by_user = _is_by_user(entry)
        source = (entry.user if by_user else entry.address) or OTHERS
        throttle = self._users if by_user else self._strangers
        if is_full and not by_user:
            throttle.suppress(source, _kind_of(entry, by_user=False))
            return False
        return throttle.allow(source, _kind_of(entry, by_user=by_user), now)

    def collect(self, at: float) -> list[AuditEntry]:
        """Rows that say how many were not kept since the last call, of which kind, from whom."""
        self._bearers.collect()  # they are counted with their users
        entries = []
        for suppressed in (*self._users.collect(), *self._strangers.collect()):
            kind = suppressed.kind
            assert isinstance(kind, _Kind)
            source = suppressed.source or None
            entries.append(
                AuditEntry(
                    at=at,
                    kind="suppressed",
                    outcome=kind.outcome,
                    code=kind.code,
                    method=kind.method,
                    act=kind.kind if kind.kind != "attempt" else None,
                    user=source if kind.by_user else None,
                    address=None if kind.by_user else source,
                    affected=suppressed.count,
                )
            )
        return entries


def matters(entry: AuditEntry) -> bool:
    """Whether a row is kept whatever others do: no stranger can cause it."""
    return entry.outcome in ("done", "lost") or entry.kind == "suppressed"


def _is_by_user(entry: AuditEntry) -> bool:
    """Whether the user is who they say: the token was good. Anybody can try to log in as them."""
    if entry.user is None:
        return False
    return entry.outcome in ("accepted", "refreshed") or entry.method in ("websocket", "bearer")


def _kind_of(entry: AuditEntry, *, by_user: bool) -> _Kind:
    return _Kind(entry.kind, entry.outcome, entry.code, entry.method, by_user)
