"""Combines many small look-ups into few large ones.

A separate look-up for each caller costs a thread hop and a round trip. Here one task loads the keys
of all callers that wait at once; meanwhile the next batch gathers. The slower the database, the
larger the batches, so in a storm the number of look-ups does not grow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

import attrs
import trio

K = TypeVar("K")
V = TypeVar("V")

MAX_BATCH: Final = 500
"""Keys in one load. Larger loads gained nothing when measured, and make callers wait longer."""


class BatchFailedError(Exception):
    """The load of this batch failed; ``__cause__`` is its error. Other batches are unaffected."""


class BatchOverflowError(Exception):
    """More than ``max_waiting`` callers wait."""


@attrs.frozen
class BatchStatistics:
    """``waiting``: calls of `get`. ``gathering``: keys that are not part of a load yet."""

    waiting: int
    gathering: int
    running: bool


@attrs.define(eq=False)
class _Entry(Generic[V]):
    """A key, from the first call for it to its answer."""

    waiters: int = 0
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: V | None = None
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()


class Batcher(Generic[K, V]):
    """Looks up values of keys, many at once.

    - ``load``: an async function that takes up to ``max_batch`` different keys and returns the
      value of each of them.
    - ``timeout``: how long a `get` may take, in seconds.
    - ``load_timeout``: how long a load may take, in seconds. None means ``timeout``.
    - ``max_waiting``: how many calls of `get` may wait at once.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        timeout: float = 3.0,
        load_timeout: float | None = None,
        max_batch: int = MAX_BATCH,
        max_waiting: int = 20_000,
    ) -> None:
        self._load = load
        self._timeout = timeout
        self._load_timeout = timeout if load_timeout is None else load_timeout
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._gathering: dict[K, _Entry[V]] = {}
        self._waiting = 0
        self._arrived = trio.Event()
        self._running = False

    def statistics(self) -> BatchStatistics:
        return BatchStatistics(self._waiting, len(self._gathering), self._running)

    async def get(self, key: K) -> V:
        """Return the value of ``key``, from a load that begins after this call.

        Raises `trio.TooSlowError`, `BatchFailedError`, `BatchOverflowError`, and `RuntimeError` if
        `run` is not running. If cancelled, the key is removed from the batch that gathers.
        """
        if not self._running:
            raise RuntimeError("Batcher.run is not running: start Batcher.run in a nursery first")
        if self._waiting >= self._max_waiting:
            raise BatchOverflowError(f"{self._waiting} calls are waiting, which is the limit")
        entry = self._gathering.get(key)
        if entry is None:
            entry = self._gathering[key] = _Entry()
        self._arrived.set()
        self._waiting += 1
        entry.waiters += 1
        try:
            with trio.move_on_after(self._timeout) as scope:  # `fail_after` costs a generator
                await entry.done.wait()
            if scope.cancelled_caught:
                raise trio.TooSlowError
        finally:
            self._waiting -= 1
            entry.waiters -= 1
            if not entry.waiters and self._gathering.get(key) is entry:
                del self._gathering[key]
        if entry.error is not None:
            # Each caller gets a new exception: raising a shared one mixes up the tracebacks.
            raise BatchFailedError(str(entry.error)) from entry.error
        return entry.answer  # type: ignore[return-value]  # set with `done`

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer calls until cancelled; those that still wait then get `BatchFailedError`."""
        if self._running:
            raise RuntimeError("this Batcher is running already")
        self._running = True
        batch: dict[K, _Entry[V]] = {}
        try:
            task_status.started()
            while True:
                await self._arrived.wait()
                batch = dict(islice(self._gathering.items(), self._max_batch))
                for key in batch:
                    del self._gathering[key]
                if not self._gathering:
                    self._arrived = trio.Event()
                if batch:
                    await self._answer(batch)
        finally:
            self._running = False
            stopped = RuntimeError("the Batcher has stopped")
            for entry in (*batch.values(), *self._gathering.values()):
                if not entry.done.is_set():
                    entry.fail(stopped)
            self._gathering.clear()
            self._arrived = trio.Event()

    async def _answer(self, batch: dict[K, _Entry[V]]) -> None:
        answers: Mapping[K, V]
        try:
            with trio.fail_after(self._load_timeout):
                answers = await self._load(list(batch))
        except Exception as error:
            for entry in batch.values():
                entry.fail(error)
            return
        for key, entry in batch.items():
            if key in answers:
                entry.answer = answers[key]
                entry.done.set()
            else:
                entry.fail(LookupError("the load left this key out"))
