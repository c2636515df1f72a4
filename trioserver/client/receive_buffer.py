"""A bounded buffer between the connection that receives items and the code that iterates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import attrs
import trio

from trioserver.client.errors import BufferOverflowError

_T = TypeVar("_T")

ITEM_BYTES: Final = 256
"""Estimated memory of an item beside its text, so that empty messages are bounded as well."""


@attrs.define
class _Missed:
    count: int = 0


class ReceiveBuffer(Generic[_T]):
    """Items with their sizes in bytes. `get` waits; nothing else does.

    ``on_get`` is called when an item has been taken out, or all have been cleared.
    """

    def __init__(self, *, max_bytes: int, on_get: Callable[[], object] = lambda: None) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._on_get = on_get
        self._items: deque[tuple[_T | _Missed, int]] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False
        self._error: Callable[[], Exception] | None = None

    def put(self, item: _T, size: int) -> bool:
        """Append an item; drop and count it, and return False, if ``max_bytes`` would be exceeded.

        An empty buffer accepts any item. Otherwise an item above the limit could never be received.
        """
        if self.bytes and self.bytes + size + ITEM_BYTES > self.max_bytes:
            self._miss()
            return False
        self.put_unbounded(item, size)
        return True

    def put_unbounded(self, item: _T, size: int) -> None:
        """Append an item even if the buffer is full, for callers that then stop receiving."""
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
        """Drop all items."""
        self._items.clear()
        self.bytes = 0
        self._on_get()

    def close(self, error: Callable[[], Exception] | None = None) -> None:
        """Accept no more items. After the remaining ones, `get` raises ``error()``, or
        `trio.EndOfChannel` if it is None."""
        if not self._closed:
            self._closed = True
            self._error = error
            self._waiting.unpark_all()

    async def get(self) -> _T:
        """Wait for the next item. Raises `BufferOverflowError` in place of dropped items.

        Cancelling this loses no item. It needs no deadline: the buffer is closed together with the
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
            raise BufferOverflowError(item.count)
        return item
