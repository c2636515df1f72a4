"""What has arrived and waits for whoever iterates: bounded, and what did not fit is said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import attrs
import trio

from trioserver.client.errors import Overflow

_T = TypeVar("_T")

ITEM_BYTES: Final = 256
"""What an item costs beside its text, roughly, so that empty messages are bounded as well."""


@attrs.define
class _Missed:
    count: int = 0


class Inbox(Generic[_T]):
    """Items and their sizes in bytes. Nothing that puts waits; `get` does."""

    def __init__(self, *, max_bytes: int, on_get: Callable[[], object] = lambda: None) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._on_get = on_get
        self._items: deque[tuple[_T | _Missed, int]] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False
        self._error: Callable[[], Exception] | None = None

    def put(self, item: _T, size: int) -> bool:
        """Put an item in; beyond ``max_bytes`` it is dropped, counted, and False returned.

        An empty inbox takes any item: one that is larger than the bound could never be had.
        """
        if self.bytes and self.bytes + size + ITEM_BYTES > self.max_bytes:
            self._miss()
            return False
        self.force(item, size)
        return True

    def force(self, item: _T, size: int) -> None:
        """Put an item in, full or not; for those who stop what comes in when it is."""
        if not self._closed:
            self.bytes += size + ITEM_BYTES
            self._items.append((item, size + ITEM_BYTES))
            self._waiting.unpark_all()

    def _miss(self) -> None:
        last = self._items[-1][0]
        if not isinstance(last, _Missed):
            last = _Missed()
            self._items.append((last, 0))
        last.count += 1

    def clear(self) -> None:
        """Throw away what waits."""
        self._items.clear()
        self.bytes = 0
        self._on_get()

    def close(self, error: Callable[[], Exception] | None = None) -> None:
        """Nothing more comes: after what waits, `get` raises ``error()``, or `EndOfChannel`."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._waiting.unpark_all()

    async def get(self) -> _T:
        """The next item. Raises `Overflow` in the place of those that did not fit.

        Cancelling this loses nothing. There is no deadline here: an inbox is closed with the
        connection that fills it, and that has one.
        """
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._closed:
                raise trio.EndOfChannel if self._error is None else self._error()
            await self._waiting.park()
        item, size = self._items.popleft()
        self.bytes -= size
        self._on_get()
        if isinstance(item, _Missed):
            raise Overflow(item.count)
        return item
