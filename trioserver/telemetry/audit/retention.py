"""Deletes old rows of the audit, a few at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from trioserver.storage import DatabaseUnavailableError
from trioserver.storage.retention import RetentionClock
from trioserver.telemetry.audit.store import EXPIRE_ROWS, AuditStore

log: Final = structlog.get_logger("trioserver")

_LONGEST_INTERVAL: Final = 3600.0
"""Maximum seconds between two searches for old rows."""

_PAUSE: Final = 0.1
"""Seconds between two transactions, in which others can read and write."""


async def expire_forever(
    store: AuditStore, retention: float, wall_clock: Callable[[], float]
) -> None:
    """Delete rows older than ``retention`` seconds, until cancelled. Raises nothing else."""
    clock = RetentionClock(wall_clock)
    interval = min(retention / 10, _LONGEST_INTERVAL)
    while True:
        await _expire(store, clock.now() - retention)
        await trio.sleep(interval)


async def _expire(store: AuditStore, before: float) -> None:
    deleted = 0
    try:
        while True:
            some = await store.expire(before)
            deleted += some
            if some < EXPIRE_ROWS:
                break
            await trio.sleep(_PAUSE)
    except DatabaseUnavailableError as error:
        log.warning("audit_retention_failed", error=str(error))
    except Exception as error:  # the table was dropped, say: the next write makes it again
        log.warning("audit_retention_failed", error=type(error).__name__)
    if deleted:
        log.info("audit_rows_expired", rows=deleted)
