"""Many small look-ups made into few large ones.

A look-up of its own for each caller costs a thread hop and a round trip each. Here one task takes
all that wait, asks once, and hands out the answers; meanwhile the next batch gathers. The slower
the database, the larger the batches: a storm of look-ups makes them cheaper, not more.
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
"""Keys in one load. Larger ones gained nothing when measured, and hold up those who wait longer."""


class BatchFailedError(Exception):
    """The load of this batch failed; its error is the cause. The next batch is tried anew."""


class BatchOverflowError(Exception):
    """More callers wait than are allowed."""


@attrs.frozen
class BatchStatistics:
    """``waiting`` counts calls of `get`, ``gathering`` the keys of which no load has been told."""

    waiting: int
    gathering: int
    running: bool


@attrs.define(eq=False)
class _Entry(Generic[V]):
    """A key, from the first that asks for it to its answer."""

    waiters: int = 0
    done: trio.Event = attrs.field(factory=trio.Event)
    answer: V | None = None
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()


class Batcher(Generic[K, V]):
    """``load`` is called with up to ``max_batch`` distinct keys and answers every one of them.

    ``timeout`` bounds each `get`, in seconds, and ``load_timeout`` each load, None meaning the
    same: it is the net beneath a load that has a deadline of its own. ``max_waiting`` bounds the
    calls that wait at once: a key, a task and its event for each of them.
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
        """The answer for ``key``, from a load that began after this call. Callers share loads.

        Raises `trio.TooSlowError`, `BatchFailedError`, `BatchOverflowError`, and `RuntimeError`
        when `run` is not running. Cancelling it takes the key out of the batch that gathers.
        """
        if not self._running:
            raise RuntimeError("nobody answers: start Batcher.run in a nursery first")
        if self._waiting >= self._max_waiting:
            raise BatchOverflowError(f"{self._waiting} calls wait already")
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
            # One exception of its own for each: raising a shared one mixes up the tracebacks.
            raise BatchFailedError(str(entry.error)) from entry.error
        return entry.answer  # type: ignore[return-value]  # set with `done`

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers until it is cancelled; then whoever still waits gets `BatchFailedError`."""
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
