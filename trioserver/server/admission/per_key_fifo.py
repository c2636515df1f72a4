"""A queue for each key, which also knows which key has the most items."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """An item, and the key of its queue."""

    @property
    def key(self) -> str: ...


_KeyedT = TypeVar("_KeyedT", bound=Keyed)


class PerKeyFifo(Generic[_KeyedT]):
    """A first-in, first-out queue for each key.

    Every operation takes constant time. Sizes change by one at a time, so the largest one is always
    known, and ordered dictionaries find their first item without searching.
    """

    def __init__(self) -> None:
        self._queues: dict[str, OrderedDict[_KeyedT, None]] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}  # keys, by the size of their queue
        self._total = 0
        self.most = 0  # the size of the largest queue

    def __len__(self) -> int:
        return self._total

    def count(self, key: str) -> int:
        """Return how many items a key has."""
        return len(self._queues.get(key, ()))

    def oldest(self, key: str) -> _KeyedT:
        """Return the oldest item of a key. Raises `KeyError` if it has none."""
        return next(iter(self._queues[key]))

    def oldest_of_most(self) -> _KeyedT:
        """Return the oldest item of a key that has the most. Raises `KeyError` if all are empty."""
        return self.oldest(next(iter(self._by_size[self.most])))

    def add(self, item: _KeyedT) -> None:
        """Add an item as the newest of its key."""
        mine = self._queues.get(item.key)
        if mine is None:
            mine = self._queues[item.key] = OrderedDict()
        mine[item] = None
        self._total += 1
        self._resize(item.key, len(mine) - 1, len(mine))

    def discard(self, item: _KeyedT) -> bool:
        """Remove an item; return False if it was not there."""
        mine = self._queues.get(item.key)
        if mine is None or item not in mine:
            return False
        del mine[item]
        if not mine:
            del self._queues[item.key]
        self._total -= 1
        self._resize(item.key, len(mine) + 1, len(mine))
        return True

    def _resize(self, key: str, before: int, after: int) -> None:
        if before:
            equals = self._by_size[before]
            del equals[key]
            if not equals:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, OrderedDict())[key] = None
        if after > self.most or (before == self.most and before not in self._by_size):
            self.most = after
