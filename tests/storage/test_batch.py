"""No threads here, so that everything runs on the autojump clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioserver.storage import Batcher, BatchFailedError, BatchOverflowError


class Loads:
    """A load that doubles numbers, takes ``seconds``, and can be told to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.seconds = 1.0
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.batches.append(list(keys))
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {key: 2 * key for key in keys if key >= 0}


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
async def batcher(loads: Loads, nursery: trio.Nursery) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(loads, timeout=10, max_waiting=2_500)
    await nursery.start(batcher.run)
    yield batcher
    statistics = batcher.statistics()
    assert (statistics.waiting, statistics.gathering) == (0, 0)


async def test_all_that_wait_share_a_load_of_up_to_500(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    answers = {}

    async def ask(key: int) -> None:
        answers[key] = await batcher.get(key)

    async with trio.open_nursery() as nursery:
        for key in range(1_200):
            nursery.start_soon(ask, key)
    assert answers == {key: 2 * key for key in range(1_200)}
    assert [len(batch) for batch in loads.batches] == [500, 500, 200]


async def test_the_next_batch_gathers_while_one_is_under_way(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    async with trio.open_nursery() as nursery:
        for key in range(5):
            nursery.start_soon(batcher.get, key)
            await trio.sleep(0.1)
    assert loads.batches == [[0], [1, 2, 3, 4]]


async def test_those_who_ask_for_one_key_share_it_unless_its_load_has_begun(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.get, 7)
        nursery.start_soon(batcher.get, 7)
        await trio.sleep(0.5)
        nursery.start_soon(batcher.get, 7)  # what has begun may know less than this one may ask
    assert loads.batches == [[7], [7]]


async def test_a_failing_load_fails_its_own_batch_only(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    loads.error = ZeroDivisionError("oh")
    failures: list[BatchFailedError] = []

    async def ask() -> None:
        with pytest.raises(BatchFailedError, match="oh") as caught:
            await batcher.get(1)
        failures.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.sleep(1.5)
    loads.error = None
    assert await batcher.get(1) == 2
    assert [failure.__cause__ for failure in failures] == [failures[0].__cause__] * 2
    assert failures[0] is not failures[1]


async def test_a_key_that_the_load_left_out_fails_alone(
    autojump_clock: MockClock, batcher: Batcher[int, int]
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.get, 1)
        with pytest.raises(BatchFailedError, match="left this key out"):
            await batcher.get(-1)


async def test_a_load_that_hangs_is_ended_and_the_next_one_works(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    loads.seconds = float("inf")
    start = trio.current_time()
    with pytest.raises((trio.TooSlowError, BatchFailedError)):
        await batcher.get(1)
    assert trio.current_time() - start == pytest.approx(10)
    loads.seconds = 1
    assert await batcher.get(1) == 2


async def test_each_call_has_a_timeout_of_its_own(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    loads.seconds = 9
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.get, 1)
        await trio.sleep(0.5)
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await batcher.get(2)
        assert trio.current_time() - start == pytest.approx(10)


async def test_a_cancelled_call_takes_its_key_out_of_the_batch(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.get, 1)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.1):
            await batcher.get(2)
        nursery.start_soon(batcher.get, 3)
        nursery.start_soon(batcher.get, 4)
        with trio.move_on_after(0.1):
            await batcher.get(3)  # somebody else still wants this one
    await trio.sleep(5)
    assert loads.batches == [[1], [3, 4]]


@pytest.mark.parametrize("ticks", range(12))
async def test_cancelling_at_any_moment_leaves_nothing_behind(
    autojump_clock: MockClock, batcher: Batcher[int, int], loads: Loads, ticks: int
) -> None:
    loads.seconds = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(batcher.get, 1)
        nursery.start_soon(batcher.get, 2)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert batcher.statistics().waiting == 0
    assert batcher.statistics().gathering == 0
    assert await batcher.get(3) == 6


async def test_more_callers_than_the_bound_are_refused_at_once(
    autojump_clock: MockClock,
    batcher: Batcher[int, int],
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(2_500):
            nursery.start_soon(batcher.get, 1)
        await wait_all_tasks_blocked()
        with pytest.raises(BatchOverflowError, match="2500 calls are waiting"):
            await batcher.get(1)
    assert await batcher.get(1) == 2


async def test_a_call_with_nobody_to_answer_says_so(
    autojump_clock: MockClock, loads: Loads
) -> None:
    batcher = Batcher(loads)
    with pytest.raises(RuntimeError, match=r"start Batcher\.run"):
        await batcher.get(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        with pytest.raises(RuntimeError, match="running already"):
            await batcher.run()
        nursery.cancel_scope.cancel()
    with pytest.raises(RuntimeError, match=r"start Batcher\.run"):
        await batcher.get(1)


async def test_whoever_waits_when_it_stops_is_told_and_it_can_start_again(
    autojump_clock: MockClock, loads: Loads
) -> None:
    batcher = Batcher(loads)

    async def ask(key: int) -> None:
        with pytest.raises(BatchFailedError, match="has stopped"):
            await batcher.get(key)

    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        callers.start_soon(ask, 1)
        await wait_all_tasks_blocked()
        callers.start_soon(ask, 2)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        assert await batcher.get(1) == 2
        nursery.cancel_scope.cancel()


async def test_cancelling_inside_of_the_load_stops_it(
    autojump_clock: MockClock, loads: Loads
) -> None:
    batcher = Batcher(loads)
    async with trio.open_nursery() as nursery:
        await nursery.start(batcher.run)
        nursery.start_soon(batcher.get, 1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not batcher.statistics().running
    assert batcher.statistics().waiting == 0
