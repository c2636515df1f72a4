"""Records what happens, without holding anybody up: a queue, and a task that empties it."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from typing import Final

import attrs
import structlog
import trio

from trioserver.config import AuditConfig
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit.entry import (
    AuditEntry,
    of_admin_action,
    of_attempt,
    of_rejected_origin,
)
from trioserver.telemetry.audit.query import AuditPage, AuditQuery
from trioserver.telemetry.audit.quotas import Quotas, matters
from trioserver.telemetry.audit.retention import expire_forever
from trioserver.telemetry.audit.store import AuditStore
from trioserver.telemetry.observer import AdminAction, AuthAttempt, Observer, Rejection

log: Final = structlog.get_logger("trioserver")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""Seconds between attempts to write, doubled each time: a database that is back is soon used."""

_KEPT_FOR_ACTS: Final = 4
"""One part in so many of the queue is for rows that nobody but an administrator causes."""

_SUMMARY_INTERVAL: Final = 60.0
"""Seconds between rows that say how many rows were suppressed."""

_SAY_AGAIN: Final = 60.0
"""Seconds between log lines about losses that go on."""


@attrs.frozen(kw_only=True)
class AuditStatistics:
    """A snapshot. ``queued`` rows wait, ``written`` are stored, ``lost`` are neither.

    ``failing``: the last attempt to write has failed. ``suppressed`` rows were more than one
    source, or all together, may cause; rows of the kind ``suppressed`` tell of them.
    """

    queued: int
    written: int
    lost: int
    failing: bool
    suppressed: int = 0


class Auditor(Observer):
    """The audit of a server. `run` writes what the observer's methods take.

    Rows are kept in memory up to ``config.max_queued_rows``, and written in batches. While the
    database is away they are kept and tried again; those beyond the bound are lost, which is
    counted, logged, and recorded itself as soon as there is room. A row is never stored twice.

    ``wall_clock`` gives seconds since the Unix epoch.
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
        self._queue: deque[tuple[str, AuditEntry]] = deque()
        self._arrived = trio.Event()
        self._full = trio.Event()
        self._run_id = uuid.uuid4().hex
        self._numbers = count()
        self._written = 0
        self._lost = 0
        self._untold = 0  # of those lost; a row will tell
        self._said_at = -_SAY_AGAIN
        self._failures = 0
        self._has_worked = False
        self._quotas = Quotas(config)
        self._suppressed = 0

    def statistics(self) -> AuditStatistics:
        """How it stands."""
        return AuditStatistics(
            queued=len(self._queue),
            written=self._written,
            lost=self._lost,
            failing=self._failures > 0,
            suppressed=self._suppressed,
        )

    async def check_health(self) -> None:
        """Raises `DatabaseUnavailableError` until rows could be written for the first time.

        A new server whose audit never works should not take the place of one that does. Later on,
        clients do not pay for an audit that fails.
        """
        if not self._has_worked:
            await self._store.check_writable()
            self._has_worked = True

    async def query(self, query: AuditQuery) -> AuditPage:
        """The newest entries that fit and are stored. Raises `DatabaseUnavailableError`."""
        return await self._store.query(query)

    # -------------------------------------------------------------------------- what happens

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        self._put(of_attempt(attempt, self._wall_clock()))

    def on_request_rejected(self, rejection: Rejection) -> None:
        if rejection.code == "origin":
            self._put(of_rejected_origin(rejection, self._wall_clock()))

    def on_admin_action(self, action: AdminAction) -> None:
        self._put(of_admin_action(action, self._wall_clock()))

    def _put(self, entry: AuditEntry) -> None:
        is_full = 2 * len(self._queue) >= self._config.max_queued_rows
        if not self._quotas.allow(entry, trio.current_time(), is_full=is_full):
            self._suppressed += 1
            return
        room = self._config.max_queued_rows
        if not matters(entry):
            room -= room // _KEPT_FOR_ACTS
        if len(self._queue) >= room:
            self._lose()
            return
        self._queue.append((f"{self._run_id}-{next(self._numbers)}", entry))
        self._arrived.set()
        if len(self._queue) >= self._config.max_batch_rows:
            self._full.set()

    def _lose(self) -> None:
        self._lost += 1
        self._untold += 1
        now = trio.current_time()
        if now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            log.error("audit_rows_lost", lost=self._lost, queue=self._config.max_queued_rows)

    # -------------------------------------------------------------------------- writing

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; then what is left, for no longer than ``flush_timeout``.

        A database that is away does not keep it from starting. Raises `SchemaTooNewError` at the
        start.
        """
        try:
            await self._store.prepare()
        except DatabaseUnavailableError as error:
            self._failed(error)
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    expire_forever, self._store, self._config.retention, self._wall_clock
                )
                nursery.start_soon(self._summarize_forever)
                await self._write_forever()
        finally:
            self._summarize()
            await self._flush()

    async def _summarize_forever(self) -> None:
        while True:
            await trio.sleep(_SUMMARY_INTERVAL)
            if not self._failures:  # or they would fill the queue; the counts go on meanwhile
                self._summarize()

    def _summarize(self) -> None:
        """Record how many rows were suppressed since the last time."""
        for entry in self._quotas.collect(self._wall_clock()):
            self._put(entry)

    async def _write_forever(self) -> None:
        while True:
            await self._arrived.wait()
            with trio.move_on_after(self._config.flush_interval):
                await self._full.wait()
            while not await self._write_batch():  # noqa: ASYNC110 -- it asks somebody else
                await trio.sleep(self._pause())

    async def _flush(self) -> None:
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + self._config.flush_timeout
            while self._queue:
                if not await self._write_batch():
                    await trio.sleep(self._pause())
        if self._queue:
            self._lost += len(self._queue)
            log.error("audit_rows_lost", lost=self._lost, reason="shutdown")
            self._queue.clear()

    async def _write_batch(self) -> bool:
        """Store the oldest rows; False where that has failed, and they are still to be stored."""
        batch = list(islice(self._queue, self._config.max_batch_rows))
        try:
            if batch:
                await self._store.add(batch)
        except Exception as error:  # whatever it is, it must not end the server
            self._failed(error)
            return False
        for _ in batch:
            self._queue.popleft()
        self._written += len(batch)
        self._has_worked |= bool(batch)
        self._succeeded()
        if len(self._queue) < self._config.max_batch_rows:
            self._full = trio.Event()
        if not self._queue:
            self._arrived = trio.Event()
        return True

    def _pause(self) -> float:
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 20)))

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            # Of another error only the kind: its text may quote what was to be stored.
            text = (
                str(error) if isinstance(error, DatabaseUnavailableError) else type(error).__name__
            )
            log.warning("audit_unavailable", error=text, queued=len(self._queue))

    def _succeeded(self) -> None:
        if self._failures:
            log.info("audit_available", queued=len(self._queue), lost=self._lost)
            self._failures = 0
        if self._untold:
            lost, self._untold = self._untold, 0
            self._put(AuditEntry(at=self._wall_clock(), kind="loss", outcome="lost", affected=lost))
