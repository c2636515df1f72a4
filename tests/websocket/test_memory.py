"""All connections together: who waits, who goes, and that nobody is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioserver.websocket.memory import GRAIN, Debt, Memory, SharedFrame, shared

LIMIT = 100 * GRAIN
MARK = 75 * GRAIN


class Owner:
    """Notes what it is asked for."""

    def __init__(self, memory: Memory) -> None:
        self.waits = False
        self.evicted: bool | None = None
        self.debt = Debt(memory, self)

    def wait_for_memory(self) -> None:
        self.waits = True

    def go_on_with_memory(self) -> None:
        self.waits = False

    def evict(self, *, slow: bool) -> None:
        self.evicted = slow


@asynccontextmanager
async def running(memory: Memory) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(memory.run)
        yield
        nursery.cancel_scope.cancel()


def owners(memory: Memory, count: int) -> list[Owner]:
    return [Owner(memory) for _ in range(count)]


def test_what_all_hold_is_added_up_and_goes_with_them() -> None:
    memory = Memory(LIMIT)
    one, two = owners(memory, 2)
    one.debt.set_queued(10 * GRAIN)
    one.debt.set_unsent(5 * GRAIN)
    two.debt.set_partial(7 * GRAIN)
    assert memory.held == 22 * GRAIN
    one.debt.set_queued(0)
    assert memory.held == 12 * GRAIN
    two.debt.close()
    two.debt.set_queued(GRAIN * 50)  # after the end nothing counts
    one.debt.close()
    one.debt.close()
    assert memory.held == 0


def test_small_accounts_are_not_looked_at() -> None:
    memory = Memory(LIMIT)
    for owner in owners(memory, 100):
        owner.debt.set_queued(GRAIN - 1)
    assert memory.held == 0


def test_who_holds_more_than_a_share_waits_and_the_others_do_not() -> None:
    memory = Memory(LIMIT)
    greedy, *modest = owners(memory, 11)
    for owner in modest:
        owner.debt.set_queued(GRAIN)
    greedy.debt.set_queued(MARK)
    assert greedy.waits
    for owner in modest:
        owner.debt.set_queued(2 * GRAIN)
        assert not owner.waits
    assert memory.waiting == 1


def test_who_waits_goes_on_when_there_is_room_in_the_order_of_waiting() -> None:
    memory = Memory(LIMIT * 8)
    everybody = owners(memory, 3)
    for owner in everybody:
        owner.debt.set_queued(MARK * 8 // 3 + 2 * GRAIN)
    first, second, _third = everybody
    assert [owner.waits for owner in everybody] == [False, False, True]
    first.debt.set_unsent(10 * GRAIN)
    assert first.waits
    second.debt.set_queued(MARK * 8 // 3 - 15 * GRAIN)
    assert [owner.waits for owner in everybody] == [True, False, False]
    second.debt.close()
    assert memory.waiting == 0


async def test_at_the_limit_those_who_hold_most_go_until_nobody_has_to_wait(
    autojump_clock: trio.abc.Clock,
) -> None:
    told: list[tuple[int, int]] = []
    memory = Memory(LIMIT, on_pressure=lambda: told.append((memory.waiting, memory.evicted)))
    async with running(memory):
        everybody = owners(memory, 4)
        for owner, size in zip(everybody, (10, 40, 35, 20), strict=True):
            owner.debt.set_queued(size * GRAIN)
        everybody[1].debt.set_unsent(60 * GRAIN)
        await trio.testing.wait_all_tasks_blocked()
        assert [owner.evicted for owner in everybody] == [None, True, None, None]
        assert memory.held == 65 * GRAIN
        assert memory.evicted == 1
        assert told[-1] == (1, 1), "the next goes on when there is more room"
        everybody[2].debt.set_queued(80 * GRAIN)
        await trio.testing.wait_all_tasks_blocked()
        assert [owner.evicted for owner in everybody] == [None, True, False, None]
        for owner in everybody:
            owner.debt.close()
        assert memory.held == 0


def test_a_frame_for_many_is_counted_once_and_for_as_long_as_anybody_holds_it() -> None:
    before = SharedFrame.total
    frame = shared(b"x" * 100_000)
    holders = [[frame] for _ in range(1000)]
    assert SharedFrame.total - before == 100_000
    del frame
    holders.clear()
    assert SharedFrame.total == before
    assert type(shared(b"small")) is bytes


@pytest.mark.parametrize("count", [1000, 8000])
def test_a_message_costs_the_same_however_many_are_connected(count: int) -> None:
    """No account is looked at but its own, also beyond the mark."""
    memory = Memory(10 * count * GRAIN)
    looked = 0

    class Counting(Debt):
        __slots__ = ()

        @property
        def debtor(self) -> Owner:
            nonlocal looked
            looked += 1
            return quiet

    quiet = Owner(memory)
    debts = [Counting(memory, quiet) for _ in range(count)]
    for debt in debts:
        debt.set_queued(8 * GRAIN)
    looked = 0
    debts[0].set_unsent(20 * GRAIN)
    assert looked == 1
