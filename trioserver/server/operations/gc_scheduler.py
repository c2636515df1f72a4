"""Full garbage collections: rarely, and for at most a set share of the time.

Python searches all objects for cycles whenever their number has grown by a quarter. With thousands
of connections one search takes tenths of a second, in which nothing else runs, and a crowd that
connects and disconnects causes one about every second. Connections leave no cycles behind. Cycles
that other code leaves behind are still found in time.
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
"""Of the time, at most, that full collections take."""

_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks; each takes some tenths of a millisecond."""

_GROWTH: Final = 0.25
_MIN_GROWTH: Final = 100_000
"""Growth of the allocated memory blocks, as a share and as a number, after which to collect."""

_NEVER: Final = 2**31 - 1


class GCPolicy:
    """Decides when to collect. Time is an argument, in seconds."""

    def __init__(self, blocks: int) -> None:
        self._most = self._next_most(blocks)
        self._not_before = 0.0

    def should_collect(self, blocks: int, now: float) -> bool:
        """Whether to collect now, with ``blocks`` of memory allocated."""
        return now >= self._not_before and blocks > self._most

    def collected(self, blocks: int, now: float, took: float) -> None:
        """Note a collection that took ``took`` seconds and left ``blocks`` allocated."""
        self._most = self._next_most(blocks)
        self._not_before = now + took / SHARE

    def _next_most(self, blocks: int) -> int:
        return blocks + max(int(blocks * _GROWTH), _MIN_GROWTH)


async def run_gc_scheduler(*, collect: Callable[[], object] = gc.collect) -> None:
    """Run full collections until cancelled, instead of Python's own. The young ones stay.

    For a process that is the server's own: what is alive at the start is never searched again.
    """
    with _frozen():
        policy = GCPolicy(sys.getallocatedblocks())
        while True:
            await trio.sleep(_CHECK_INTERVAL)
            if policy.should_collect(sys.getallocatedblocks(), trio.current_time()):
                begun = perf_counter()
                collect()
                took = perf_counter() - begun
                policy.collected(sys.getallocatedblocks(), trio.current_time(), took)


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
