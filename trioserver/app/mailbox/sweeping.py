"""Deletes messages that are too old, some at a time, so that senders are not held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from trioserver.app.mailbox.store import Store
from trioserver.logs.lines import may_log
from trioserver.storage import DatabaseUnavailableError

INTERVAL: Final = 3600.0
"""Seconds between two sweeps."""

ROWS: Final = 1_000
"""Messages that are deleted in one transaction. On SQLite it holds the lock of the one writer."""

PAUSE: Final = 0.1
"""Seconds between two such transactions, in which senders get their turn."""

_log: Final = structlog.get_logger("trioserver")


async def sweep_forever(store: Store, clock: Callable[[], float]) -> None:
    """Delete messages that are too old, until cancelled; raises nothing else.

    ``clock`` returns the time in seconds since the Unix epoch. It must not jump ahead.
    """
    while True:
        try:
            await sweep(store, clock)
        except Exception as error:  # no failure of a database ends the mailbox
            log_unavailable(error)
        await trio.sleep(INTERVAL)


async def sweep(store: Store, clock: Callable[[], float]) -> None:
    """Delete all messages that are too old now, `ROWS` at a time.

    A database that does not manage this within its time limit is asked for fewer rows. Raises
    `DatabaseUnavailableError`.
    """
    rows, count = ROWS, 0
    try:
        while True:
            try:
                swept = await store.sweep(clock(), rows)
            except DatabaseUnavailableError as error:
                if error.category != "timeout" or rows == 1:
                    raise
                rows //= 2
            else:
                count += swept.messages
                if swept.is_last:
                    break
                rows = min(2 * rows, ROWS)
            await trio.sleep(PAUSE)
    finally:
        if count:
            _log.warning("mailbox_messages_dropped", count=count, too_old=True)


def log_unavailable(error: Exception, **values: int) -> None:
    """Log how the database of a mailbox failed, without any statement or value."""
    if not may_log("mailbox_unavailable"):  # every user's consumer fails while it is down
        return
    if isinstance(error, DatabaseUnavailableError):
        text = str(error)  # what is wrong and what to do, without SQL and values
        _log.warning("mailbox_unavailable", category=error.category, error=text, **values)
    else:
        _log.warning("mailbox_unavailable", category="error", error=type(error).__name__, **values)
