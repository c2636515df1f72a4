"""A coroutine that was begun before it is awaited is none the wiser; its first wait is seen."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import serving
from trioserver.lifecycle.dispatch.waiting import Parking, resume


async def run_noticing(coroutine: Coroutine[Any, Any, Any], on_wait: Callable[[], None]) -> Any:
    """As the message loop does: begin; what has to be done for those that wait; go on."""
    try:
        trap = coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    on_wait()
    return await resume(coroutine, trap)


async def give(value: int, *, waits: int = 0) -> int:
    for _ in range(waits):
        await trio.sleep(1)
    return value


async def test_what_does_not_wait_is_not_noticed(autojump_clock: MockClock) -> None:
    seen: list[float] = []
    result = await run_noticing(give(7), lambda: seen.append(trio.current_time()))
    assert (result, seen) == (7, [])


async def test_the_first_wait_is_noticed_before_it_begins(autojump_clock: MockClock) -> None:
    seen: list[float] = []
    begin = trio.current_time()
    result = await run_noticing(give(7, waits=3), lambda: seen.append(trio.current_time()))
    assert (result, seen) == (7, [begin])
    assert trio.current_time() == begin + 3


async def test_a_deadline_may_be_set_when_it_is_noticed(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    cleaned_up = False

    async def sleep() -> None:
        nonlocal cleaned_up
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            cleaned_up = True

    def limit() -> None:
        scope.deadline = begin + 5

    with trio.CancelScope() as scope:
        await run_noticing(sleep(), limit)
    assert scope.cancelled_caught
    assert cleaned_up
    assert trio.current_time() == begin + 6


async def test_scopes_and_nurseries_inside_of_it_nest_as_ever(autojump_clock: MockClock) -> None:
    async def work() -> str:
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        return "done"

    assert await run_noticing(work(), lambda: None) == "done"


@pytest.mark.parametrize("waits", [0, 1])
async def test_what_it_raises_is_raised(waits: int, autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await give(0, waits=waits)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await run_noticing(fail(), lambda: None)


async def test_an_answer_does_not_wait_for_the_request_behind_it(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        begin = trio.current_time()
        for id, ms in ((1, 0), (2, 0), (3, 2000)):
            await client.send(type="slow", id=id, data={"ms": ms})
        arrived = [((await client.receive())["id"], trio.current_time() - begin) for _ in range(3)]
        assert arrived == [(1, 0.0), (2, 0.0), (3, 2.0)]


async def test_who_is_parked_goes_on_when_it_is_woken_and_not_before(
    autojump_clock: MockClock,
) -> None:
    parking = Parking()
    woken: list[float] = []

    async def park() -> None:
        for _ in range(2):
            await parking.park()
            woken.append(trio.current_time())

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        parking.unpark()  # nobody is there yet, and nothing is kept for later
        nursery.start_soon(park)
        for _ in range(2):
            await trio.sleep(1)
            parking.unpark()
            parking.unpark()  # a second time, before it ran: it wakes once
    assert woken == [begin + 1, begin + 2]


async def test_who_is_cancelled_while_parked_is_woken_by_nobody_any_more() -> None:
    parking = Parking()
    with trio.CancelScope() as scope:
        scope.cancel()
        await parking.park()
    assert scope.cancelled_caught
    parking.unpark()
    await trio.testing.wait_all_tasks_blocked()
