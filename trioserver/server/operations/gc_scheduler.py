"""When garbage is looked for: seldom, and at most for a set share of the time.

Python searches all that lives for cycles whenever a quarter has come to it. With thousands of
connections one search takes tenths of a second, in which nobody is answered, and a crowd that
comes and goes brings one about every second. Connections leave no cycles behind; what others leave
is found in time all the same.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import trio

SHARE: Final = 0.005
"""Of the time, at most, for full searches."""

_LOOK: Final = 1.0
"""Seconds between two looks at how much there is; each takes some tenths of a millisecond."""

_GROWTH: Final = 0.25
_LEAST: Final = 100_000
"""A full search is due when there are so many more blocks of memory, as a share and in number."""

_NEVER: Final = 2**31 - 1


class GCPolicy:
    """Decides when a full search is due. Time comes in as an argument, in seconds."""

    def __init__(self, blocks: int) -> None:
        self._most = self._next_most(blocks)
        self._not_before = 0.0

    def should_collect(self, blocks: int, now: float) -> bool:
        """Whether to search, with so many ``blocks`` of memory in use."""
        return now >= self._not_before and blocks > self._most

    def searched(self, blocks: int, now: float, took: float) -> None:
        """A search has ended, which took so long and left so many blocks."""
        self._most = self._next_most(blocks)
        self._not_before = now + took / SHARE

    def _next_most(self, blocks: int) -> int:
        return blocks + max(int(blocks * _GROWTH), _LEAST)


async def run_gc_scheduler(*, collect: Callable[[], object] = gc.collect) -> None:
    """Do so until cancelled, in place of Python's own full collections; the young ones stay.

    For a process that is a server's own: what is alive at the start is never looked at again.
    """
    with _frozen():
        garbage = GCPolicy(sys.getallocatedblocks())
        while True:
            await trio.sleep(_LOOK)
            if garbage.should_collect(sys.getallocatedblocks(), trio.current_time()):
                begun = perf_counter()
                collect()
                took = perf_counter() - begun
                garbage.searched(sys.getallocatedblocks(), trio.current_time(), took)


@contextmanager
def _frozen() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
