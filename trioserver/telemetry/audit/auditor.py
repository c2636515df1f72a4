"""The audit of a server: an observer that records authentications and administrative actions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trioserver.config import AuditConfig
from trioserver.storage import Database
from trioserver.telemetry.audit.conversion import of_admin_action, of_attempt, of_rejected_origin
from trioserver.telemetry.audit.entry import AuditEntry
from trioserver.telemetry.audit.query import AuditPage, AuditQuery
from trioserver.telemetry.audit.quotas import Quotas
from trioserver.telemetry.audit.retention import expire_forever
from trioserver.telemetry.audit.store import AuditStore
from trioserver.telemetry.audit.writer import AuditWriter
from trioserver.telemetry.observer import AdminAction, AuthAttempt, Observer, Rejection

_SUMMARY_INTERVAL: Final = 60.0
"""Seconds between rows that say how many rows were suppressed."""


@attrs.frozen(kw_only=True)
class AuditStatistics:
    """A snapshot of the audit. Counters are from the server's start on.

    - ``queued``: rows that wait to be written.
    - ``written``, ``lost``: counters of rows.
    - ``failing``: whether the last attempt to write failed.
    - ``suppressed``: counter of rows beyond what one address, one user, or all together may cause.
      Rows of the kind ``suppressed`` say how many there were, and from whom.
    """

    queued: int
    written: int
    lost: int
    failing: bool
    suppressed: int = 0


class Auditor(Observer):
    """Records what happens, without holding anybody up: `run` writes the rows in the background.

    ``wall_clock`` returns seconds since the Unix epoch.
    """

    def __init__(
        self,
        database: Database,
        config: AuditConfig,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = AuditStore(database)
        self._config = config
        self._wall_clock = wall_clock
        self._writer = AuditWriter(self._store, config, wall_clock=wall_clock)
        self._quotas = Quotas(config)
        self._suppressed = 0
        self._was_writable = False

    def statistics(self) -> AuditStatistics:
        """Return a snapshot."""
        writer = self._writer
        return AuditStatistics(
            queued=writer.queued,
            written=writer.written,
            lost=writer.lost,
            failing=writer.is_failing,
            suppressed=self._suppressed,
        )

    async def check_health(self) -> None:
        """Raise `DatabaseUnavailableError` until rows could be written for the first time.

        A new server whose audit never works must not replace one whose audit works. Later on, an
        audit that fails is no reason to reject clients.
        """
        if not (self._was_writable or self._writer.written):
            await self._store.check_writable()
            self._was_writable = True

    async def query(self, query: AuditQuery) -> AuditPage:
        """Return the newest stored entries that match. Raises `DatabaseUnavailableError`."""
        return await self._store.query(query)

    # -------------------------------------------------------------------------- what happens

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        self._record(of_attempt(attempt, self._wall_clock()))

    def on_request_rejected(self, rejection: Rejection) -> None:
        if rejection.code == "origin":
            self._record(of_rejected_origin(rejection, self._wall_clock()))

    def on_admin_action(self, action: AdminAction) -> None:
        self._record(of_admin_action(action, self._wall_clock()))

    def _record(self, entry: AuditEntry) -> None:
        if self._quotas.allow(entry, trio.current_time(), is_full=self._writer.is_half_full):
            self._writer.put(entry)
        else:
            self._suppressed += 1

    # -------------------------------------------------------------------------- writing

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, then flush for at most ``audit.flush_timeout``.

        Starts even if the database fails. Raises `SchemaTooNewError` at the start.
        """
        await self._writer.prepare()
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    expire_forever, self._store, self._config.retention, self._wall_clock
                )
                nursery.start_soon(self._summarize_forever)
                await self._writer.run()
        finally:
            self._summarize()
            await self._writer.flush()

    async def _summarize_forever(self) -> None:
        while True:
            await trio.sleep(_SUMMARY_INTERVAL)
            if not self._writer.is_failing:  # summaries would fill the queue; counting goes on
                self._summarize()

    def _summarize(self) -> None:
        """Record how many rows were suppressed since the last time."""
        for entry in self._quotas.collect(self._wall_clock()):
            self._writer.put(entry)
