"""Takes away letters that are too old, some at a time, so that whoever sends is not held up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trioserver.storage import DatabaseUnavailableError

if TYPE_CHECKING:
    from trioserver.app.mailbox.sql_store import Store

INTERVAL: Final = 3600.0
"""Seconds between two looks for what is too old."""

ROWS: Final = 1_000
"""Letters that are taken away in one transaction. On SQLite it holds the one writer's lock."""

PAUSE: Final = 0.1
"""Seconds between two such transactions, in which whoever sends gets its turn."""

_log: Final = structlog.get_logger("trioserver")


async def sweep_forever(store: Store, clock: Callable[[], float]) -> None:
    """Take away what is too old, until cancelled; raises nothing else.

    ``clock`` gives seconds since the Unix epoch, and must not be one that jumps ahead.
    """
    while True:
        try:
            await sweep(store, clock)
        except Exception as error:  # nothing that a database does ends the server
            say_unavailable(error)
        await trio.sleep(INTERVAL)


async def sweep(store: Store, clock: Callable[[], float]) -> None:
    """Take away all that is too old now, `ROWS` at a time. Raises `DatabaseUnavailableError`.

    A database that does not manage so many rows within its time limit is asked for fewer.
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
                count += swept.letters
                if swept.is_last:
                    break
                rows = min(2 * rows, ROWS)
            await trio.sleep(PAUSE)
    finally:
        if count:
            _log.warning("mailbox_messages_dropped", count=count, too_old=True)


def say_unavailable(error: Exception, **values: int) -> None:
    """Log that the database of a mailbox failed, and how; never what it was asked."""
    if isinstance(error, DatabaseUnavailableError):
        text = str(error)  # what is wrong and what to do, without SQL and values
        _log.warning("mailbox_unavailable", category=error.category, error=text, **values)
    else:
        _log.warning("mailbox_unavailable", category="error", error=type(error).__name__, **values)
