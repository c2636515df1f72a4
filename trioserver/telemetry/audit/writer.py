"""Writes rows of the audit in the background: a bounded queue, and the task that empties it."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from typing import Final

import structlog
import trio

from trioserver.config import AuditConfig
from trioserver.logs.throttle import LogThrottle
from trioserver.storage import DatabaseUnavailableError
from trioserver.telemetry.audit.entry import AuditEntry
from trioserver.telemetry.audit.quotas import is_essential
from trioserver.telemetry.audit.store import AuditStore

log: Final = structlog.get_logger("trioserver")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""Seconds between attempts to write while they fail. The pause doubles with each attempt, up to
this."""

_RESERVED: Final = 4
"""One part in this many of the queue is reserved for essential rows."""

_LOST_PERIOD: Final = 60.0
"""Seconds between two log lines about lost rows."""


class AuditWriter:
    """Queues up to ``config.max_queued_rows`` rows and writes them in batches.

    While the database fails, rows stay in the queue and are tried again. Rows beyond the limit are
    lost: they are counted in ``lost``, logged, and recorded in a row of the kind "loss" when the
    database works again. No row is stored twice. ``written`` counts stored rows.
    """

    def __init__(
        self, store: AuditStore, config: AuditConfig, *, wall_clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._config = config
        self._wall_clock = wall_clock
        self._queue: deque[tuple[str, AuditEntry]] = deque()
        self._has_rows = trio.Event()
        self._has_batch = trio.Event()
        self._run_id = uuid.uuid4().hex
        self._numbers = count()
        self._failures = 0
        self._unrecorded = 0  # of those lost, the ones that no row tells of yet
        self._lost_throttle = LogThrottle(_LOST_PERIOD)
        self.written = 0
        self.lost = 0

    @property
    def queued(self) -> int:
        """The number of rows in the queue."""
        return len(self._queue)

    @property
    def is_half_full(self) -> bool:
        """Whether at least half of the queue is taken."""
        return 2 * len(self._queue) >= self._config.max_queued_rows

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failures > 0

    def put(self, entry: AuditEntry) -> None:
        """Queue a row, or lose it if there is no room. Never waits."""
        room = self._config.max_queued_rows
        if not is_essential(entry):
            room -= room // _RESERVED
        if len(self._queue) >= room:
            self._lose()
            return
        self._queue.append((f"{self._run_id}-{next(self._numbers)}", entry))
        self._has_rows.set()
        if len(self._queue) >= self._config.max_batch_rows:
            self._has_batch.set()

    def _lose(self) -> None:
        self.lost += 1
        self._unrecorded += 1
        if self._lost_throttle.allow(trio.current_time()) is not None:
            log.error("audit_rows_lost", lost=self.lost, queue=self._config.max_queued_rows)

    async def prepare(self) -> None:
        """Create the table. If the database fails, that is logged and done later.

        Raises `SchemaTooNewError`.
        """
        try:
            await self._store.prepare()
        except DatabaseUnavailableError as error:
            self._failed(error)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._has_rows.wait()
            with trio.move_on_after(self._config.flush_interval):
                await self._has_batch.wait()
            while not await self._write_batch():  # noqa: ASYNC110 -- the state is the database's
                await trio.sleep(self._pause())

    async def flush(self) -> None:
        """Write what is queued, for at most ``config.flush_timeout``, even if cancelled."""
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + self._config.flush_timeout
            while self._queue:
                if not await self._write_batch():
                    await trio.sleep(self._pause())
        if self._queue:
            self.lost += len(self._queue)
            log.error("audit_rows_lost", lost=self.lost, reason="shutdown")
            self._queue.clear()

    async def _write_batch(self) -> bool:
        """Store the oldest rows. Return False if that failed; they stay in the queue."""
        batch = list(islice(self._queue, self._config.max_batch_rows))
        try:
            if batch:
                await self._store.add(batch)
        except Exception as error:  # no failure may end the server
            self._failed(error)
            return False
        for _ in batch:
            self._queue.popleft()
        self.written += len(batch)
        self._succeeded()
        if len(self._queue) < self._config.max_batch_rows:
            self._has_batch = trio.Event()
        if not self._queue:
            self._has_rows = trio.Event()
        return True

    def _pause(self) -> float:
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 20)))

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            # Of another error only the type: its text may quote what was to be stored.
            known = isinstance(error, DatabaseUnavailableError)
            text = str(error) if known else type(error).__name__
            log.warning("audit_unavailable", error=text, queued=len(self._queue))

    def _succeeded(self) -> None:
        if self._failures:
            log.info("audit_available", queued=len(self._queue), lost=self.lost)
            self._failures = 0
        if self._unrecorded:
            lost, self._unrecorded = self._unrecorded, 0
            self.put(AuditEntry(at=self._wall_clock(), kind="loss", outcome="lost", affected=lost))
