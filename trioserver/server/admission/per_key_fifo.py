"""Places by who holds them: whose is the oldest, and who holds most, without looking for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """What is held, by whom."""

    @property
    def key(self) -> str: ...


_KeyedT = TypeVar("_KeyedT", bound=Keyed)


class PerKeyFifo(Generic[_KeyedT]):
    """A collection that knows the order in which each holder's were added.

    Every operation takes constant time: sizes change by one at a time, so the largest size is
    always known, and ordered dictionaries give their first without looking for it.
    """

    def __init__(self) -> None:
        self._held: dict[str, OrderedDict[_KeyedT, None]] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}  # holders, by how much they hold
        self._total = 0
        self.most = 0

    def __len__(self) -> int:
        return self._total

    def count(self, key: str) -> int:
        """How much a holder has."""
        return len(self._held.get(key, ()))

    def oldest(self, key: str) -> _KeyedT:
        """What a holder has had for longest. Raises `KeyError` where it has nothing."""
        return next(iter(self._held[key]))

    def oldest_of_most(self) -> _KeyedT:
        """What somebody who holds most has had for longest; `KeyError` where all is empty."""
        return self.oldest(next(iter(self._by_size[self.most])))

    def add(self, held: _KeyedT) -> None:
        """As the newest of its holder."""
        mine = self._held.get(held.key)
        if mine is None:
            mine = self._held[held.key] = OrderedDict()
        mine[held] = None
        self._total += 1
        self._resize(held.key, len(mine) - 1, len(mine))

    def discard(self, held: _KeyedT) -> bool:
        """Remove it; False where it was not there."""
        mine = self._held.get(held.key)
        if mine is None or held not in mine:
            return False
        del mine[held]
        if not mine:
            del self._held[held.key]
        self._total -= 1
        self._resize(held.key, len(mine) + 1, len(mine))
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
