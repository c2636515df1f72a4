"""Blocks in memory, indexed by what they name. Each change takes constant time, amortised."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from trioserver.auth import User
from trioserver.auth.blocks.block import Block

_Key: TypeAlias = tuple[str, str, str]

_FEW: Final = 100
"""The number of changes after which sorting once is cheaper than keeping the order."""

_NONE: Final[Mapping[str, Block]] = {}


class BlockIndex:
    """Blocks by id, by what they name, by their age, and by their end."""

    def __init__(self) -> None:
        self._by_id: dict[str, Block] = {}
        self._by_key: dict[_Key, dict[str, Block]] = {}
        self._by_age = _Sorted(lambda: ((b.created_at, b.id, b) for b in self._by_id.values()))
        self._by_end = _Sorted(
            lambda: ((b.until, b.id) for b in self._by_id.values() if b.until is not None)
        )

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def get(self, id: str) -> Block | None:
        """Return the block with this id, or None."""
        return self._by_id.get(id)

    def insert(self, block: Block) -> None:
        """Add a block whose id is new."""
        self._by_id[block.id] = block
        self._by_key.setdefault(_key(block), {})[block.id] = block
        self._by_age.add((block.created_at, block.id, block))
        if block.until is not None:
            self._by_end.add((block.until, block.id))

    def discard(self, id: str) -> None:
        """Remove the block with this id, if there is one."""
        block = self._by_id.pop(id, None)
        if block is None:
            return
        key = _key(block)
        mine = self._by_key[key]
        del mine[id]
        if not mine:
            del self._by_key[key]
        self._by_age.remove((block.created_at, id))
        if block.until is not None:
            self._by_end.remove((block.until, id))

    def oldest_first(self, *, after: Block | None = None) -> Iterator[Block]:
        """Yield the blocks by age; only those behind ``after``, if it is given."""
        ages = self._by_age.values
        start = 0 if after is None else bisect_left(ages, (after.created_at, after.id)) + 1
        return (ages[index][2] for index in range(start, len(ages)))

    def naming(self, target: Mapping[str, Any]) -> Iterator[Block]:
        """Yield the blocks whose target has one thing in common with ``target``, or more."""
        yield from self._by_key.get(_key_of(**target), _NONE).values()

    def over(self, now: float) -> list[str]:
        """Return the ids of the blocks that have ended."""
        ends = self._by_end.values
        return [id for _, id in ends[: bisect_right(ends, now, key=_first)]]

    def count_over(self, now: float) -> int:
        """Return the number of blocks that have ended."""
        return bisect_right(self._by_end.values, now, key=_first)

    def candidates(
        self, user: User, resource: Mapping[str, str], sid: str | None
    ) -> Iterator[Block]:
        """Blocks that have one thing in common with these; `Block.fits` says about the rest."""
        for key in _keys(user, resource, sid):
            yield from self._by_key.get(key, _NONE).values()


class _Sorted:
    """Sorted values. They are sorted when they are asked for, and kept sorted through a few
    changes. Many at once, as when 90,000 are read, do not each pay for the order.
    """

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make
        self._values: list[Any] | None = None
        self._changes = 0

    @property
    def values(self) -> list[Any]:
        if self._values is None:
            self._values = sorted(self._make())
        self._changes = 0
        return self._values

    def add(self, value: tuple[Any, ...]) -> None:
        values = self._after_a_change()
        if values is not None:
            insort(values, value)

    def remove(self, value: tuple[float, str]) -> None:
        """Remove the value that begins with these two."""
        values = self._after_a_change()
        if values is not None:
            del values[bisect_left(values, value)]

    def _after_a_change(self) -> list[Any] | None:
        """Count a change, and return the values if their order is kept."""
        self._changes += 1
        if self._changes > _FEW:
            self._values = None
        return self._values


def _first(value: tuple[Any, ...]) -> float:
    number: float = value[0]
    return number


def _key(block: Block) -> _Key:
    """Return one property that everything the block matches has."""
    return _key_of(block.user, block.token_id, block.sid, block.resource)


def _key_of(
    user: str | None = None,
    token_id: str | None = None,
    sid: str | None = None,
    resource: Mapping[str, str] | None = None,
) -> _Key:
    if user is not None:
        return ("user", "", user)
    if token_id is not None:
        return ("token_id", "", token_id)
    if sid is not None:
        return ("sid", "", sid)
    return ("resource", *min((resource or {}).items()))


def _keys(user: User, resource: Mapping[str, str], sid: str | None) -> Iterator[_Key]:
    """Yield the keys of all blocks that may match."""
    yield ("user", "", user.id)
    if user.token_id is not None:
        yield ("token_id", "", user.token_id)
    claim = user.claims.get("sid")
    for each in {claim if isinstance(claim, str) else None, sid} - {None}:
        yield ("sid", "", str(each))
    for name, value in resource.items():
        yield ("resource", name, value)
