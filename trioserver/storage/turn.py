"""A lock with a timeout, for holders that wait for a database."""

from __future__ import annotations

import trio

from trioserver.storage.errors import DatabaseUnavailableError


class Turn:
    """Acquires ``lock`` for ``async with``, within ``timeout`` seconds.

    Raises `DatabaseUnavailableError` if that takes longer.
    """

    def __init__(self, lock: trio.Lock, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    async def __aenter__(self) -> None:
        with trio.move_on_after(self._timeout) as scope:
            await self._lock.acquire()
        if scope.cancelled_caught:
            text = "The database did not answer earlier calls in time."
            raise DatabaseUnavailableError("timeout", text, cause="timeout")

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
