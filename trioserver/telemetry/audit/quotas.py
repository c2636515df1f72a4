"""Limits how many rows clients may cause, so that a flood fills neither the disk nor the queue.

Administrative actions have no limit. Rows of an authenticated user count against that user, so that
no other client can use up the quota. All others count against their address, and all together.
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
"""Seconds in which a bearer token that is accepted repeatedly from one address is one row, because
over HTTP each request is an authentication."""


@attrs.frozen
class _Kind:
    """What suppressed rows have in common. If ``by_user``, their source is a user."""

    kind: Kind
    outcome: Outcome
    code: str | None
    method: str | None
    by_user: bool


class Quotas:
    """Decides which rows are recorded, and makes summaries of the others."""

    def __init__(self, config: AuditConfig) -> None:
        self._addresses = SourceLimiter(config.rows_per_source, config.rows_per_second, burst=BURST)
        self._users = SourceLimiter(config.rows_per_source, burst=BURST)
        self._bearers = SourceLimiter(1 / _SAME_TOKEN, burst=_SAME_TOKEN)

    def allow(self, entry: AuditEntry, now: float, *, is_full: bool) -> bool:
        """Return whether a row may be recorded.

        If the queue ``is_full``, only rows of authenticated users and essential rows may.
        """
        if is_essential(entry):
            return True
        if entry.outcome == "accepted" and entry.method == "bearer":
            key = f"{entry.user} {entry.token} {entry.address}"
            if not self._bearers.allow(key, None, now):
                self._users.suppress(entry.user or OTHERS, _kind_of(entry, by_user=True))
                return False
        by_user = _is_by_user(entry)
        source = (entry.user if by_user else entry.address) or OTHERS
        throttle = self._users if by_user else self._addresses
        if is_full and not by_user:
            throttle.suppress(source, _kind_of(entry, by_user=False))
            return False
        return throttle.allow(source, _kind_of(entry, by_user=by_user), now)

    def collect(self, at: float) -> list[AuditEntry]:
        """Return rows that say how many were suppressed since the last call, by kind and source."""
        self._bearers.collect()  # they are counted with their users
        entries = []
        for suppressed in (*self._users.collect(), *self._addresses.collect()):
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
                    action=kind.kind if kind.kind != "attempt" else None,
                    user=source if kind.by_user else None,
                    address=None if kind.by_user else source,
                    affected=suppressed.count,
                )
            )
        return entries


def is_essential(entry: AuditEntry) -> bool:
    """Whether a row has no quota: a client cannot cause it."""
    return entry.outcome in ("done", "lost") or entry.kind == "suppressed"


def _is_by_user(entry: AuditEntry) -> bool:
    """Whether the user has proved to be this user. Any client can try to log in as any user."""
    if entry.user is None:
        return False
    return entry.outcome in ("accepted", "refreshed") or entry.method in ("websocket", "bearer")


def _kind_of(entry: AuditEntry, *, by_user: bool) -> _Kind:
    return _Kind(entry.kind, entry.outcome, entry.code, entry.method, by_user)
