"""One after the other, without an endless wait: who holds the lock may wait for a database."""

from __future__ import annotations

import trio

from trioserver.storage.errors import DatabaseUnavailableError


class Turn:
    """A lock for ``async with``; ``timeout`` bounds the wait for it, in seconds.

    Raises `DatabaseUnavailableError` where it takes longer.
    """

    def __init__(self, lock: trio.Lock, timeout: float) -> None:
        self._lock = lock
        self._timeout = timeout

    async def __aenter__(self) -> None:
        with trio.move_on_after(self._timeout) as scope:
            await self._lock.acquire()
        if scope.cancelled_caught:
            text = "The database did not answer those who asked before."
            raise DatabaseUnavailableError("timeout", text, cause="timeout")

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
