"""The send queue: order, bounds, and what is left when it ends at any moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioserver.websocket.headers import Opcode, encode_frame
from trioserver.websocket.send_queue import SendQueue, SendQueueClosed, SendQueueFull

KIB = 1024
MAX_AGE = 10.0
PING = encode_frame(Opcode.PING, b"")
CLOSE = encode_frame(Opcode.CLOSE, b"\x03\xe8")


class Bench:
    """A send queue whose transport takes nothing before it is read: a chunk for each `read`."""

    def __init__(self, max_bytes: int = 1024 * KIB, max_age: float = MAX_AGE) -> None:
        self.sender, self.receiver = trio.testing.lockstep_stream_one_way_pair()
        self.overdue = 0
        self.last_words: bytes | None = None
        self.send_queue = SendQueue(
            self.sender, max_bytes=max_bytes, max_age=max_age, on_expired=self._on_overdue
        )

    def _on_overdue(self) -> None:
        self.overdue += 1
        if self.last_words is not None and not self.send_queue.closed:
            self.send_queue.put_nowait(self.last_words, last=True)

    async def read(self) -> bytes:
        return bytes(await self.receiver.receive_some(1024 * KIB))

    async def read_all(self) -> bytes:
        """What there is to read when everything has come to rest."""
        read = bytearray()
        with trio.move_on_after(MAX_AGE / 1000):
            while data := await self.read():
                read += data
        return bytes(read)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[SendQueue]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.send_queue.run)
        yield bench.send_queue
        bench.send_queue.close()  # and with it, `run` ends


@asynccontextmanager
async def stalled(bench: Bench) -> AsyncIterator[SendQueue]:
    """With b"stalled" on its way, which the transport does not take yet."""
    async with running(bench) as send_queue:
        send_queue.put_nowait(b"stalled")
        await trio.testing.wait_all_tasks_blocked()
        yield send_queue


# ------------------------------------------------------------------------------ order


async def test_frames_leave_in_order_and_in_one_piece(autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    async with running(bench) as send_queue:
        for frame in (b"one", b"two", b"three"):
            send_queue.put_nowait(frame)
        assert await bench.read() == b"onetwothree"


async def test_control_goes_before_data_and_close_behind_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue:
        send_queue.put_nowait(b"data")
        send_queue.put_control_nowait(PING)
        send_queue.put_control_nowait(CLOSE)
        assert await bench.read_all() == b"stalled" + PING + b"data" + CLOSE


async def test_control_passes_a_backlog_after_one_chunk(autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    async with running(bench) as send_queue:
        for _ in range(20):
            send_queue.put_nowait(b"x" * 16 * KIB)
        await trio.testing.wait_all_tasks_blocked()
        send_queue.put_control_nowait(PING)
        read = await bench.read_all()
        assert read.index(PING) <= 64 * KIB
        assert len(read) == 20 * 16 * KIB + len(PING)


async def test_the_close_frame_is_the_last_of_all(autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    async with running(bench) as send_queue:
        for _ in range(10):
            send_queue.put_nowait(b"x" * 16 * KIB)
        send_queue.put_control_nowait(CLOSE)
        for put in (send_queue.put_nowait, send_queue.put_control_nowait):
            with pytest.raises(SendQueueClosed):
                put(PING)
        send_queue.discard()
        assert await bench.read_all() == CLOSE


async def test_the_answer_to_the_handshake_is_no_close_frame(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Its first byte, H, has the low bits of one."""
    bench = Bench()
    async with running(bench) as send_queue:
        send_queue.put_control_nowait(b"HTTP/1.1 101 Switching Protocols")
        send_queue.put_nowait(b"data")
        assert (await bench.read_all()).endswith(b"data")


# ------------------------------------------------------------------------------ bounds


async def test_what_waits_is_bounded_and_a_last_word_fits_in(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench(max_bytes=10)
    async with stalled(bench) as send_queue:
        send_queue.put_nowait(b"1")
        with pytest.raises(SendQueueFull):
            send_queue.put_nowait(b"2")
        send_queue.put_nowait(b"23", urgent=True)  # a fifth is for what cannot wait
        with pytest.raises(SendQueueFull):
            send_queue.put_nowait(b"4", urgent=True)
        send_queue.put_nowait(b"last words", last=True)
        assert send_queue.queued_bytes == 20
        assert await bench.read_all() == b"stalled123last words"
        assert send_queue.queued_bytes == 0
        assert send_queue.bytes_sent == 20


async def test_data_that_leaves_just_in_time_is_not_overdue(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with running(bench) as send_queue:
        for _ in range(10):
            send_queue.put_nowait(b"x" * 64 * KIB)
            await trio.sleep(MAX_AGE * 0.9)
            await bench.read()
        assert bench.overdue == 0


async def test_last_words_are_sent_instead_of_what_is_overdue(
    autojump_clock: trio.abc.Clock,
) -> None:
    """A transport that takes a chunk every eight seconds is alive, but too slow."""
    bench = Bench()
    bench.last_words = b"too slow"
    async with running(bench) as send_queue:
        for _ in range(4):
            send_queue.put_nowait(b"x" * 64 * KIB)
        await trio.sleep(MAX_AGE * 0.8)
        await bench.read()
        await trio.sleep(MAX_AGE * 0.8)
        await bench.read()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.overdue == 1
        assert await bench.read_all() == b"too slow"
        assert send_queue.queued_bytes == 0


async def test_a_large_frame_may_take_long_while_each_piece_of_it_is_taken_in_time(
    autojump_clock: trio.abc.Clock,
) -> None:
    """And what waits behind it is not overdue for its size."""
    bench = Bench()
    async with running(bench) as send_queue:
        send_queue.put_nowait(b"x" * 512 * KIB)
        send_queue.put_nowait(b"behind it")
        for size in [64 * KIB] * 6 + [128 * KIB]:
            await trio.sleep(MAX_AGE * 0.8)
            assert len(await bench.read()) == size
        assert await bench.read() == b"behind it"
        assert bench.overdue == 0


async def test_a_large_frame_of_which_a_piece_is_not_taken_ends_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with running(bench) as send_queue:
        send_queue.put_nowait(b"x" * 512 * KIB)
        await trio.sleep(MAX_AGE * 0.8)
        await bench.read()
        begin = trio.current_time()
        with pytest.raises(SendQueueClosed):
            await send_queue.flush()
        assert trio.current_time() - begin == pytest.approx(MAX_AGE)
        assert bench.overdue == 1


async def test_that_data_is_overdue_is_told_once(autojump_clock: trio.abc.Clock) -> None:
    """Though nobody takes the last words either."""
    bench = Bench()
    bench.last_words = b"too slow"
    async with running(bench) as send_queue:
        for _ in range(4):
            send_queue.put_nowait(b"x" * 64 * KIB)
        for _ in range(2):
            await trio.sleep(MAX_AGE * 0.8)
            await bench.read()
        await trio.sleep(MAX_AGE * 2)
        assert bench.overdue == 1
        assert send_queue.closed


async def test_a_transport_that_takes_nothing_ends_it(autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    bench.last_words = b"nobody hears this"
    async with stalled(bench) as send_queue:
        begin = trio.current_time()
        with pytest.raises(SendQueueClosed):
            await send_queue.flush()
        assert trio.current_time() - begin == pytest.approx(MAX_AGE)
        assert bench.overdue == 1
        assert send_queue.queued_bytes == 0


async def test_a_pinger_that_is_never_heard_does_not_fill_the_memory(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue:
        for _ in range(1000):
            await trio.sleep(1)
            try:
                send_queue.put_control_nowait(PING)
            except SendQueueClosed:
                break
        assert trio.current_time() <= MAX_AGE + 2


# ------------------------------------------------------------------------------ waiting


async def test_flush_waits_for_all_that_was_queued_also_when_it_is_overtaken(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with running(bench) as send_queue, trio.open_nursery() as nursery:
        for _ in range(3):
            send_queue.put_nowait(b"x" * 64 * KIB)
        flushed = trio.Event()

        async def flush() -> None:
            await send_queue.flush()
            flushed.set()

        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            send_queue.put_control_nowait(PING)
        for _ in range(3):
            assert not flushed.is_set()
            await bench.read()
            await trio.testing.wait_all_tasks_blocked()
        assert flushed.is_set()


async def test_a_control_frame_does_not_wait_for_the_data_it_overtakes(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue, trio.open_nursery() as nursery:
        for _ in range(8):
            send_queue.put_nowait(b"x" * 64 * KIB)
        nursery.start_soon(send_queue.send_control, PING)
        await trio.testing.wait_all_tasks_blocked()
        await bench.read()
        await bench.read()
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert send_queue.queued_bytes == 7 * 64 * KIB


async def test_a_close_frame_that_is_awaited_has_been_written(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue, trio.open_nursery() as nursery:
        send_queue.put_nowait(b"data")
        nursery.start_soon(send_queue.send_control, CLOSE)
        await trio.testing.wait_all_tasks_blocked()
        assert await bench.read() == b"stalled"
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        assert await bench.read() == b"data" + CLOSE


async def test_those_who_wait_for_room_are_woken_when_there_is_some(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with running(bench) as send_queue, trio.open_nursery() as nursery:
        for _ in range(4):
            send_queue.put_nowait(b"x" * 64 * KIB)
        nursery.start_soon(send_queue.wait_below, 128 * KIB)
        for left in (192, 128):
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            await bench.read()
            await trio.testing.wait_all_tasks_blocked()
            assert send_queue.queued_bytes == left * KIB
        assert not nursery.child_tasks


async def test_what_is_discarded_is_not_sent_nor_waited_for(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue, trio.open_nursery() as nursery:
        send_queue.put_nowait(b"forget this")
        nursery.start_soon(send_queue.flush)
        await trio.testing.wait_all_tasks_blocked()
        send_queue.discard()
        assert send_queue.queued_bytes == len(b"stalled")
        send_queue.put_nowait(b"instead")
        assert await bench.read_all() == b"stalledinstead"
        assert send_queue.queued_bytes == 0


# ------------------------------------------------------------------------------ the end

WAITS: dict[str, Callable[[SendQueue], Awaitable[None]]] = {
    "flush": SendQueue.flush,
    "room": lambda send_queue: send_queue.wait_below(0),
    "control": lambda send_queue: send_queue.send_control(PING),
    "close": lambda send_queue: send_queue.send_control(CLOSE),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("how", ["close", "transport"])
async def test_whoever_waits_is_told_of_the_end(
    wait: str, how: str, autojump_clock: trio.abc.Clock
) -> None:
    bench = Bench()
    told: list[bool] = []

    async def waiting() -> None:
        try:
            await WAITS[wait](bench.send_queue)
        except SendQueueClosed:
            told.append(True)

    async with stalled(bench) as send_queue:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting)
            await trio.testing.wait_all_tasks_blocked()
            await (bench.receiver.aclose() if how == "transport" else bench.sender.aclose())
            if how == "close":
                send_queue.close()
        assert told == [True] * (wait != "room")
        assert send_queue.closed
        assert send_queue.queued_bytes == 0
        with pytest.raises(SendQueueClosed):
            send_queue.put_nowait(b"too late")


async def test_close_while_nothing_is_sent_ends_the_task(autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.send_queue.run)
        await trio.testing.wait_all_tasks_blocked()
        bench.send_queue.close()
        bench.send_queue.close()


async def test_close_while_a_chunk_is_taken_leaves_the_count_at_nothing(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue:
        send_queue.close()
        await bench.read()
        await trio.testing.wait_all_tasks_blocked()
        assert send_queue.queued_bytes == 0


@pytest.mark.parametrize("wait", WAITS)
async def test_cancelling_who_waits_leaves_the_others_waiting(
    wait: str, autojump_clock: trio.abc.Clock
) -> None:
    bench = Bench()
    async with stalled(bench) as send_queue:
        with trio.move_on_after(1) as scope:
            await WAITS[wait](send_queue)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_queue.flush)
            await bench.read_all()
        assert send_queue.queued_bytes == 0


@pytest.mark.parametrize("frames", [0, 1])
async def test_cancelling_the_writer_closes_it(frames: int, autojump_clock: trio.abc.Clock) -> None:
    bench = Bench()
    with trio.move_on_after(1):
        for _ in range(frames):
            bench.send_queue.put_nowait(b"data")
        await bench.send_queue.run()
    assert bench.send_queue.closed
    assert bench.send_queue.queued_bytes == 0
    assert bench.overdue == 0


async def test_one_writer_at_a_time_whoever_puts(autojump_clock: trio.abc.Clock) -> None:
    """The stream itself would raise `trio.BusyResourceError` at a second one."""
    bench = Bench()
    async with running(bench) as send_queue, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(send_queue.send_control, PING)
            send_queue.put_nowait(b"data")
        read = b""
        while len(read) < 50 * (len(PING) + 4):
            read += await bench.read()
        assert read.count(PING) == read.count(b"data") == 50


# ------------------------------------------------------------------------------ straight on


class Straight(Bench):
    """A send queue whose transport takes ``room`` bytes at once, and the rest when it is read."""

    def __init__(self, room: int, max_bytes: int = 1024 * KIB) -> None:
        super().__init__()
        self.room = room
        self.calls: list[bytes] = []
        self.error: OSError | None = None
        self.send_queue = SendQueue(
            self.sender,
            max_bytes=max_bytes,
            max_age=MAX_AGE,
            on_expired=self._on_overdue,
            write_nowait=self._write,
        )

    def _write(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            raise self.error
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.calls.append(taken)
        return len(taken)


def test_what_the_transport_takes_leaves_at_once_and_without_a_task() -> None:
    bench = Straight(room=100)
    bench.send_queue.put_nowait(b"one")
    bench.send_queue.put_control_nowait(PING)
    bench.send_queue.put_nowait(b"two")
    assert bench.calls == [b"one", PING, b"two"]
    assert bench.send_queue.queued_bytes == 0
    assert bench.send_queue.bytes_sent == 6 + len(PING)


async def test_what_is_corked_leaves_in_one_call_control_first() -> None:
    bench = Straight(room=100)
    bench.send_queue.cork()
    bench.send_queue.put_nowait(b"one")
    bench.send_queue.put_nowait(b"two")
    bench.send_queue.put_control_nowait(PING)
    assert bench.calls == []
    bench.send_queue.uncork()
    assert bench.calls == [PING + b"onetwo"]
    bench.send_queue.uncork()  # a second time changes nothing
    assert bench.calls == [PING + b"onetwo"]


def test_data_that_was_corked_leaves_in_one_call_too() -> None:
    bench = Straight(room=100)
    bench.send_queue.cork(0.0)
    for frame in (b"one", b"two"):
        bench.send_queue.put_nowait(frame)
    assert (bench.calls, bench.send_queue.queued_bytes) == ([], 6)
    bench.send_queue.uncork()
    assert (bench.calls, bench.send_queue.queued_bytes) == ([b"onetwo"], 0)
    assert bench.send_queue.is_flushed(bench.send_queue.position)


async def test_nothing_is_lost_when_others_write_what_the_task_was_woken_for(
    autojump_clock: trio.abc.Clock,
) -> None:
    """While the task had nothing to write, a frame that left in part was taken for sent."""
    for _ in range(20):  # which of two tasks runs first is chance
        bench = Straight(room=0)
        async with trio.open_nursery() as nursery:
            bench.send_queue.start(nursery)
            bench.send_queue.put_nowait(b"one")
            assert await bench.read() == b"one"
            await trio.testing.wait_all_tasks_blocked()
            bench.send_queue.put_nowait(b"two")  # wakes the task
            bench.room = 100
            bench.send_queue.put_nowait(b"three")  # and leaves with what was before it
            assert bench.calls[-2:] == [b"two", b"three"]
            await trio.lowlevel.checkpoint()
            bench.room = 1
            bench.send_queue.put_nowait(b"four")
            assert bench.calls[-1] == b"f"
            with trio.fail_after(1):
                assert await bench.read() == b"our"
            nursery.cancel_scope.cancel()


def test_what_is_corked_fills_no_send_queue_that_the_transport_would_empty() -> None:
    bench = Straight(room=16, max_bytes=11)
    bench.send_queue.cork(0.0)
    for frame in (b"four", b"more", b"five", b"last"):
        bench.send_queue.put_nowait(frame)
    bench.send_queue.uncork()
    assert b"".join(bench.calls) == b"fourmorefivelast"
    assert bench.calls[0] == b"fourmore"
    assert bench.send_queue.queued_bytes == 0


async def test_what_is_corked_fills_the_send_queue_of_a_peer_that_does_not_read() -> None:
    bench = Straight(room=6, max_bytes=11)
    bench.send_queue.cork()
    for frame in (b"four", b"more", b"five"):
        bench.send_queue.put_nowait(frame)
    with pytest.raises(SendQueueFull):
        bench.send_queue.put_nowait(b"last")
    assert b"".join(bench.calls) == b"fourmo"
    assert bench.send_queue.queued_bytes == 6


async def test_who_waits_for_what_is_corked_does_not_wait_for_its_release(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Straight(room=1000)
    send_queue = bench.send_queue
    waits: list[Callable[[], Awaitable[None]]] = [
        lambda: send_queue.wait_below(0),
        lambda: send_queue.wait_flushed(send_queue.position),
        send_queue.flush,
        lambda: send_queue.send_control(PING),
    ]
    for wait in waits:
        send_queue.cork()
        send_queue.put_nowait(b"data")
        with trio.fail_after(1):
            await wait()
        assert (send_queue.queued_bytes, send_queue.corked) == (0, False)


async def test_what_is_discarded_while_it_is_corked_never_leaves(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Straight(room=100)
    bench.send_queue.cork()
    bench.send_queue.put_nowait(b"old")
    bench.send_queue.discard()
    bench.send_queue.put_nowait(b"new")
    bench.send_queue.uncork()
    assert bench.calls == [b"new"]
    assert not bench.send_queue.is_flushed(bench.send_queue.position)


@pytest.mark.parametrize("corked", [False, True])
@pytest.mark.parametrize("room", range(13))
async def test_wherever_the_transport_stops_the_rest_follows_in_order(
    room: int, corked: bool, autojump_clock: trio.abc.Clock
) -> None:
    bench = Straight(room)
    async with trio.open_nursery() as nursery:
        bench.send_queue.start(nursery)
        if corked:
            bench.send_queue.cork()
        for frame in (b"one", b"two", b"six", b"ten"):
            bench.send_queue.put_nowait(frame)
        bench.send_queue.uncork()
        rest = b"" if room == 12 else await bench.read_all()
        assert b"".join(bench.calls) + rest == b"onetwosixten"
        assert bench.send_queue.queued_bytes == 0
        assert bench.send_queue.bytes_sent == 12
        bench.send_queue.close()


async def test_a_transport_that_fails_is_left_to_the_task_that_waits_for_it(
    autojump_clock: trio.abc.Clock,
) -> None:
    bench = Straight(room=100)
    bench.error = BrokenPipeError()
    await bench.receiver.aclose()
    async with trio.open_nursery() as nursery:
        bench.send_queue.start(nursery)
        bench.send_queue.put_nowait(b"one")
        await trio.testing.wait_all_tasks_blocked()
    assert bench.send_queue.closed
    with pytest.raises(SendQueueClosed):
        bench.send_queue.put_nowait(b"two")
