"""All connections together: who waits, who goes, and that nobody is forgotten."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioserver.websocket.memory import (
    GRAIN,
    MemoryAccount,
    MemoryLimiter,
    SharedFrame,
    shared,
)
from trioserver.websocket.send_queue import SendQueue

LIMIT = 100 * GRAIN
MARK = 75 * GRAIN


class Owner:
    """Notes what it is asked for."""

    def __init__(self, memory: MemoryLimiter) -> None:
        self.waits = False
        self.evicted: bool | None = None
        self.memory_account = MemoryAccount(memory, self)

    def pause_for_memory(self) -> None:
        self.waits = True

    def resume_after_memory(self) -> None:
        self.waits = False

    def evict(self, *, slow: bool) -> None:
        self.evicted = slow


@asynccontextmanager
async def running(memory: MemoryLimiter) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(memory.run)
        yield
        nursery.cancel_scope.cancel()


def owners(memory: MemoryLimiter, count: int) -> list[Owner]:
    return [Owner(memory) for _ in range(count)]


def test_what_all_hold_is_added_up_and_goes_with_them() -> None:
    memory = MemoryLimiter(LIMIT)
    one, two = owners(memory, 2)
    one.memory_account.set_queued(10 * GRAIN)
    one.memory_account.set_unsent(5 * GRAIN)
    two.memory_account.set_partial(7 * GRAIN)
    assert memory.held == 22 * GRAIN
    one.memory_account.set_queued(0)
    assert memory.held == 12 * GRAIN
    two.memory_account.close()
    two.memory_account.set_queued(GRAIN * 50)  # after the end nothing counts
    one.memory_account.close()
    one.memory_account.close()
    assert memory.held == 0


def test_small_accounts_are_not_looked_at() -> None:
    memory = MemoryLimiter(LIMIT)
    for owner in owners(memory, 100):
        owner.memory_account.set_queued(GRAIN - 1)
    assert memory.held == 0


def test_who_holds_more_than_a_share_waits_and_the_others_do_not() -> None:
    memory = MemoryLimiter(LIMIT)
    greedy, *modest = owners(memory, 11)
    for owner in modest:
        owner.memory_account.set_queued(GRAIN)
    greedy.memory_account.set_queued(MARK)
    assert greedy.waits
    for owner in modest:
        owner.memory_account.set_queued(2 * GRAIN)
        assert not owner.waits
    assert memory.waiting == 1


def test_who_waits_goes_on_when_there_is_room_in_the_order_of_waiting() -> None:
    memory = MemoryLimiter(LIMIT * 8)
    everybody = owners(memory, 3)
    for owner in everybody:
        owner.memory_account.set_queued(MARK * 8 // 3 + 2 * GRAIN)
    first, second, _third = everybody
    assert [owner.waits for owner in everybody] == [False, False, True]
    first.memory_account.set_unsent(10 * GRAIN)
    assert first.waits
    second.memory_account.set_queued(MARK * 8 // 3 - 15 * GRAIN)
    assert [owner.waits for owner in everybody] == [True, False, False]
    second.memory_account.close()
    assert memory.waiting == 0


async def test_at_the_limit_those_who_hold_most_go_until_nobody_has_to_wait(
    autojump_clock: trio.abc.Clock,
) -> None:
    told: list[tuple[int, int]] = []
    memory = MemoryLimiter(LIMIT, on_pressure=lambda: told.append((memory.waiting, memory.evicted)))
    async with running(memory):
        everybody = owners(memory, 4)
        for owner, size in zip(everybody, (10, 40, 35, 20), strict=True):
            owner.memory_account.set_queued(size * GRAIN)
        everybody[1].memory_account.set_unsent(60 * GRAIN)
        await trio.testing.wait_all_tasks_blocked()
        assert [owner.evicted for owner in everybody] == [None, True, None, None]
        assert memory.held == 65 * GRAIN
        assert memory.evicted == 1
        assert told[-1] == (1, 1), "the next goes on when there is more room"
        everybody[2].memory_account.set_queued(80 * GRAIN)
        await trio.testing.wait_all_tasks_blocked()
        assert [owner.evicted for owner in everybody] == [None, True, False, None]
        for owner in everybody:
            owner.memory_account.close()
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


@pytest.fixture(autouse=True)
def no_frames() -> Iterator[None]:
    """Frames of one test count in no other."""
    yield
    gc.collect()
    assert SharedFrame.total == 0


class Reader(Owner):
    """Somebody with a send queue, whose transport takes nothing until it is told to."""

    def __init__(self, memory: MemoryLimiter, stuck: bytes = b"stuck") -> None:
        super().__init__(memory)
        self.takes = False
        self.send_queue = SendQueue(
            trio.testing.memory_stream_one_way_pair()[0],
            max_bytes=1000 * GRAIN,
            max_age=60.0,
            on_expired=lambda: None,
            write_nowait=lambda data: len(data) if self.takes else 0,
            memory=self.memory_account,
        )
        if stuck:
            self.send_queue.put_nowait(stuck)

    def evict(self, *, slow: bool) -> None:
        super().evict(slow=slow)
        if slow:
            self.send_queue.discard()

    def read(self) -> None:
        self.takes = True
        self.send_queue.put_nowait(b"and so all leaves")


async def test_events_that_are_not_read_are_bounded_though_nobody_holds_anything_alone(
    autojump_clock: trio.abc.Clock,
) -> None:
    memory = MemoryLimiter(LIMIT)
    async with running(memory):
        readers, (modest,) = [Reader(memory) for _ in range(12)], owners(memory, 1)
        modest.memory_account.set_queued(GRAIN)
        for reader in readers:
            for _ in range(5):
                reader.send_queue.put_nowait(shared(b"x" * (2 * GRAIN)))  # of topics of their own
        await trio.testing.wait_all_tasks_blocked()
        assert memory.held <= MARK
        assert 4 <= sum(reader.evicted is True for reader in readers) <= 6
        assert modest.evicted is None


async def test_an_event_for_many_is_hardly_anybodys_fault(autojump_clock: trio.abc.Clock) -> None:
    memory = MemoryLimiter(LIMIT)
    async with running(memory):
        frame, readers = shared(b"x" * (40 * GRAIN)), [Reader(memory) for _ in range(100)]
        for reader in readers:
            reader.send_queue.put_nowait(frame)
        del frame
        (greedy,) = owners(memory, 1)
        greedy.memory_account.set_queued(61 * GRAIN)
        await trio.testing.wait_all_tasks_blocked()
        assert greedy.evicted is False
        assert not any(reader.evicted for reader in readers)


async def test_events_that_are_being_sent_in_one_piece_are_held_by_their_connection() -> None:
    memory = MemoryLimiter(LIMIT)
    (owner,) = owners(memory, 1)
    sender, _ = trio.testing.lockstep_stream_one_way_pair()
    send_queue = SendQueue(
        sender, max_bytes=LIMIT, max_age=60.0, on_expired=lambda: None, memory=owner.memory_account
    )
    async with trio.open_nursery() as nursery:
        send_queue.start(nursery)
        for _ in range(8):
            send_queue.put_nowait(shared(b"x" * (2 * GRAIN)))
        await trio.testing.wait_all_tasks_blocked()
        assert memory.held == 16 * GRAIN
        send_queue.close()
        nursery.cancel_scope.cancel()
    assert memory.held == 0


async def test_an_event_that_is_being_sent_to_many_is_counted_once() -> None:
    memory = MemoryLimiter(LIMIT)
    readers = [Reader(memory, stuck=b"") for _ in range(100)]
    frame = shared(b"x" * (40 * GRAIN))
    for reader in readers:
        reader.send_queue.put_nowait(frame)
    assert memory.held == 40 * GRAIN
    assert {reader.memory_account.shared for reader in readers} == {40 * GRAIN}


async def test_who_waits_goes_on_when_events_have_left() -> None:
    memory = MemoryLimiter(LIMIT)
    (sender,), reader = owners(memory, 1), Reader(memory)
    reader.send_queue.put_nowait(shared(b"x" * (40 * GRAIN)))
    sender.memory_account.set_partial(40 * GRAIN)  # the rest of it does not come while it waits
    assert sender.waits
    reader.read()
    assert reader.send_queue.queued_bytes == 0
    assert not sender.waits


@pytest.mark.parametrize("count", [1000, 8000])
def test_a_message_costs_the_same_however_many_are_connected(count: int) -> None:
    """No account is looked at but its own, also beyond the mark."""
    memory = MemoryLimiter(10 * count * GRAIN)
    looked = 0

    class Counting(MemoryAccount):
        __slots__ = ()

        @property
        def holder(self) -> Owner:
            nonlocal looked
            looked += 1
            return quiet

    quiet = Owner(memory)
    accounts = [Counting(memory, quiet) for _ in range(count)]
    for account in accounts:
        account.set_queued(8 * GRAIN)
    looked = 0
    accounts[0].set_unsent(20 * GRAIN)
    assert looked == 1
