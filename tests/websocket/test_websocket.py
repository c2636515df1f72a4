"""The contract of a WebSocket: what a data plane owes to the connection, whatever the peer does.

``implementation`` is the fixture to add another one to.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import ERRORS, SUBPROTOCOL
from tests.support.tls import contexts_for, stream_pair
from tests.websocket.peer import ACCEPT, UPGRADE, Notes, Peer, close, frame, text
from tests.websocket.test_frames import VIOLATIONS
from trioserver.websocket.close_frame import CloseFrame
from trioserver.websocket.handshake import Head, read_head
from trioserver.websocket.headers import Opcode, encode_text
from trioserver.websocket.poller import SocketPoller, make_poller
from trioserver.websocket.send_queue import SendQueueClosed
from trioserver.websocket.tls_stream import socket_below
from trioserver.websocket.websocket import WebSocket

TIMEOUT: Final = 5.0
MAX_AGE: Final = 20.0
LIMIT: Final = 69_999

Streams = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def socket_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


tls_pair: Final = partial(stream_pair, contexts_for())


@attrs.frozen
class Implementation:
    """A way in which a WebSocket reads, on the streams that it is for."""

    streams: Streams
    poller: Callable[[], SocketPoller | None]

    @asynccontextmanager
    async def new(
        self, stream: trio.abc.Stream, *, control_frames: int = 10_000
    ) -> AsyncIterator[WebSocket]:
        """One on ``stream``; at the end nothing may be watched any more."""
        poller = self.poller()
        async with trio.open_nursery() as nursery:
            if poller is not None:
                nursery.start_soon(poller.run)
            yield WebSocket(
                stream,
                max_message_bytes=LIMIT,
                send_queue_bytes=2**20,
                send_queue_age=MAX_AGE,
                control_frames_per_second=control_frames,
                poller=poller,
            )
            assert not poller
            nursery.cancel_scope.cancel()


BY_TASK: Final = Implementation(trio.testing.memory_stream_pair, lambda: None)
BY_POLLER: Final = Implementation(socket_pair, make_poller)
BY_TASK_OVER_TLS: Final = Implementation(tls_pair, lambda: None)
BY_POLLER_OVER_TLS: Final = Implementation(tls_pair, make_poller)
LINUX: Final = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


WAYS: Final = (
    pytest.param(BY_TASK, id="task"),
    pytest.param(BY_POLLER, id="poller", marks=LINUX),
    pytest.param(BY_TASK_OVER_TLS, id="task, TLS"),
    pytest.param(BY_POLLER_OVER_TLS, id="poller, TLS", marks=LINUX),
)


@pytest.fixture(params=WAYS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return request.param  # type: ignore[no-any-return]


@attrs.frozen
class Open:
    """Both ends of an open WebSocket, and the nursery of the server's."""

    websocket: WebSocket
    notes: Notes
    peer: Peer
    nursery: trio.Nursery

    async def close(self, code: int = 1000, reason: str = "", timeout: float = TIMEOUT) -> None:
        await self.websocket.close(code, reason, timeout=timeout)

    def close_soon(self, code: int = 1000) -> None:
        self.nursery.start_soon(self.close, code)


class Echo(Notes):
    """Answers each message with itself."""

    websocket: WebSocket

    def on_messages(self, messages: list[bytes]) -> None:
        super().on_messages(messages)
        for message in messages:
            self.websocket.send_nowait(message)


@asynccontextmanager
async def opened(
    implementation: Implementation,
    *,
    rest: bytes = b"",
    streams: Streams | None = None,
    receiver: Notes | None = None,
    request: bytes = UPGRADE,
    control_frames: int = 10_000,
) -> AsyncIterator[Open]:
    """An open WebSocket, closed at the end; hangs, and fails, where that leaves a task behind."""
    ours, theirs = (streams or implementation.streams)()
    peer = Peer(theirs)
    notes = Notes() if receiver is None else receiver
    with trio.fail_after(1000):
        async with (
            implementation.new(ours, control_frames=control_frames) as websocket,
            trio.open_nursery() as nursery,
        ):
            if isinstance(notes, Echo):
                notes.websocket = websocket
            async with trio.open_nursery() as opening:
                opening.start_soon(peer.upgrade, rest, request)
                head = await read_head(ours, max_bytes=2**14)
                websocket.accept(nursery, head)
                websocket.start(nursery, notes)
            await trio.testing.wait_all_tasks_blocked()
            yield Open(websocket, notes, peer, nursery)
            await websocket.close(1000, "", timeout=TIMEOUT)
        await trio.aclose_forcefully(theirs)
    assert notes.departures <= 1
    assert len(notes.codes) <= 1


# ------------------------------------------------------------------------------ opening


async def test_the_opening_handshake_is_answered_as_the_rfc_says(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    request = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    async with opened(implementation, request=request) as it:
        status, *lines = it.peer.head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert status.startswith("http/1.1 101 ")
        assert headers == {
            "upgrade": "websocket",
            "connection": "upgrade",
            "sec-websocket-accept": ACCEPT.lower(),
        }
        assert it.websocket.subprotocol is None


@pytest.mark.parametrize("offered", [SUBPROTOCOL, f"other, {SUBPROTOCOL}", "a,b," * 3000])
async def test_a_subprotocol_is_taken_if_it_is_ours(
    offered: str, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    request = UPGRADE[:-2] + f"Sec-WebSocket-Protocol: {offered}\r\n\r\n".encode()
    async with opened(implementation, request=request) as it:
        ours = SUBPROTOCOL in offered
        assert it.websocket.subprotocol == (SUBPROTOCOL if ours else None)
        assert (
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}".lower() in it.peer.head.decode().lower()
        ) is ours


async def test_frames_in_the_segment_of_the_upgrade_are_delivered(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, rest=text("early") + text("bird")) as it:
        await it.notes.wait(messages=2)
        assert it.notes.batches == [[b"early", b"bird"]]


async def test_a_frame_that_begins_in_the_segment_of_the_upgrade_is_delivered(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    message = text("in two parts")
    async with opened(implementation, rest=message[:5]) as it:
        await it.peer.send(message[5:])
        await it.notes.wait(messages=1)
        assert it.notes.messages == [b"in two parts"]


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_peer_that_leaves_during_the_opening_has_left(
    moment: str, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    notes = Notes()
    async with trio.open_nursery() as nursery:
        if moment == "before":
            await theirs.aclose()
        async with implementation.new(ours) as websocket:
            websocket.accept(nursery, await _upgrade_head())
            websocket.start(nursery, notes)
            await trio.testing.wait_all_tasks_blocked()
            await theirs.aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert notes.departures == 1
            await websocket.close(1000, "", timeout=TIMEOUT)
    # and no task is left


async def test_what_is_sent_at_once_leaves_with_the_answer_to_the_handshake(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery, implementation.new(ours) as websocket:
        websocket.accept(nursery, await _upgrade_head())
        websocket.send_nowait(b"hello")
        websocket.start(nursery, Notes())
        received = await theirs.receive_some(2**16)
        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.endswith(b"\r\n\r\n" + encode_text(b"hello"))
        await theirs.aclose()
        await websocket.close(1000, "", timeout=TIMEOUT)


async def _upgrade_head() -> Head:
    client, server = trio.testing.memory_stream_one_way_pair()
    await client.send_all(UPGRADE)
    return await read_head(server, max_bytes=2**14)


async def test_accepting_can_be_cancelled_and_leaves_nothing_behind(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    ours, _theirs = trio.testing.lockstep_stream_pair()  # which takes nothing
    async with trio.open_nursery() as nursery, implementation.new(ours) as websocket:
        websocket.accept(nursery, await _upgrade_head())
        websocket.start(nursery, Notes())
        with trio.move_on_after(1) as scope:
            await websocket.send_queue.flush()
        assert scope.cancelled_caught
        await websocket.close(1000, "", timeout=TIMEOUT)


# ------------------------------------------------------------------------------ messages


async def test_what_one_read_gives_is_one_batch_in_order(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        await it.peer.send(text("one"), text(""), text("two"))
        await it.notes.wait(messages=3)
        await it.peer.send(text("three"))
        await it.notes.wait(messages=4)
        assert it.notes.batches == [[b"one", b"", b"two"], [b"three"]]
        assert it.websocket.messages_received == 4
        assert it.websocket.bytes_received == sum(len(text("x" * n)) for n in (3, 0, 3, 5))


async def test_a_control_frame_is_a_barrier(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    """What came behind a Ping is not looked at before its Pong has been written."""
    async with opened(implementation, receiver=Echo()) as it:
        await it.peer.send(text("one"), frame(Opcode.PING, b"?"), text("two"))
        received = [await it.peer.receive() for _ in range(3)]
        assert set(received[:2]) == {(Opcode.TEXT, b"one"), (Opcode.PONG, b"?")}
        assert received[2] == (Opcode.TEXT, b"two")
        assert it.notes.batches == [[b"one"], [b"two"]]


async def test_each_ping_is_answered_in_order(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    payloads = [bytes((number,)) * number for number in range(126)]
    async with opened(implementation) as it:
        await it.peer.send(*(frame(Opcode.PING, payload) for payload in payloads))
        for payload in payloads:
            assert await it.peer.receive() == (Opcode.PONG, payload)


async def test_pings_are_answered_at_a_rate_and_who_sends_more_is_told(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, control_frames=20) as it:
        it.websocket.expect_more()
        for _ in range(2):
            await it.peer.send(frame(Opcode.PING, b"a") * 40)
            for _ in range(40):
                assert await it.peer.receive() == (Opcode.PONG, b"a")
            await trio.sleep(2.0)
        assert not it.notes.codes
        await it.peer.send(frame(Opcode.PING) * 41)
        await trio.testing.wait_all_tasks_blocked()
        assert it.notes.codes == ["rate_limited"]


async def test_before_it_is_authenticated_a_peer_has_a_tenth_of_the_pings(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, control_frames=20) as it:
        await it.peer.send(frame(Opcode.PONG) * 4)
        await trio.testing.wait_all_tasks_blocked()
        assert not it.notes.codes
        await it.peer.send(frame(Opcode.PONG))
        await trio.testing.wait_all_tasks_blocked()
        assert it.notes.codes == ["rate_limited"]


async def test_who_sends_a_byte_at_a_time_is_read_from_at_a_bounded_rate(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    message = frame(Opcode.TEXT, b"x" * 1000)
    async with opened(implementation) as it:
        for byte in message:
            await it.peer.stream.send_all(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        assert not it.notes.batches, "it rests, while the bytes wait together"
        await trio.sleep(1.0)
        assert it.notes.batches == [[b"x" * 1000]]
        assert not it.notes.codes


async def test_messages_leave_whole_and_in_order(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    sizes = [0, 1, 125, 126, 65_535, 65_536, 200_000]
    async with opened(implementation) as it:
        for size in sizes:
            it.websocket.send_nowait(b"x" * size)
        for size in sizes:
            assert await it.peer.receive() == (Opcode.TEXT, b"x" * size)
        assert it.websocket.messages_sent == len(sizes)


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
async def test_answers_are_held_back_while_a_task_is_about_to_add_to_them(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with opened(BY_POLLER) as it:
        before = it.websocket.send_queue.bytes_sent
        it.notes.about_to_send = True
        await it.peer.send(text("question"))
        await it.notes.wait(messages=1)
        it.websocket.send_nowait(b"first")
        it.websocket.flush_answers()
        assert it.websocket.send_queue.bytes_sent == before
        it.websocket.send_nowait(b"second")
        it.notes.about_to_send = False
        assert await it.peer.receive() == (Opcode.TEXT, b"first")
        assert await it.peer.receive() == (Opcode.TEXT, b"second")
        assert it.websocket.send_queue.queued_bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")
async def test_answers_are_not_held_back_for_a_task_that_never_adds_to_them(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with opened(BY_POLLER) as it:
        it.notes.about_to_send = True
        await it.peer.send(text("question"))
        await it.notes.wait(messages=1)
        it.websocket.send_nowait(b"answer")
        assert await it.peer.receive() == (Opcode.TEXT, b"answer")
        it.close_soon()
        assert await it.peer.expect_close() == 1000
        await it.peer.send(close(1000))


async def test_a_ping_goes_ahead_of_data_in_either_form(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.send_queue.cork()
        it.websocket.send_nowait(b"data")
        it.websocket.ping_nowait(b"frame")
        it.websocket.ping_message_nowait(b"message")
        it.websocket.send_queue.uncork()
        assert await it.peer.receive() == (Opcode.PING, b"frame")
        assert await it.peer.receive() == (Opcode.TEXT, b"message")
        assert await it.peer.receive() == (Opcode.TEXT, b"data")


async def test_a_pong_sets_the_round_trip_if_it_answers_the_last_ping(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.ping_nowait(b"first")
        await trio.sleep(1)
        it.websocket.ping_nowait(b"second")
        for seconds, payload in ((0.5, b"first"), (0.5, b"nonsense")):
            await trio.sleep(seconds)
            await it.peer.send(frame(Opcode.PONG, payload))
        await trio.testing.wait_all_tasks_blocked()
        assert it.websocket.pings.round_trip is None
        await it.peer.send(frame(Opcode.PONG, b"second"))
        await trio.testing.wait_all_tasks_blocked()
        assert it.websocket.pings.round_trip == pytest.approx(1.0)
        assert it.websocket.last_received == trio.current_time()


async def test_the_limit_on_messages_may_be_raised(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.max_message_bytes = 10
        await it.peer.send(text("x" * 10))
        await it.notes.wait(messages=1)
        it.websocket.max_message_bytes = 100
        assert it.websocket.max_message_bytes == 100
        await it.peer.send(text("x" * 100))
        await it.notes.wait(messages=2)
        assert [len(message) for message in it.notes.messages] == [10, 100]
        await it.peer.send(text("x" * 101))
        await it.notes.wait(codes=1)
        assert it.notes.codes == ["message_too_big"]


# ------------------------------------------------------------------------------ pausing


async def test_nothing_is_read_while_paused(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    class Pausing(Echo):
        def on_messages(self, messages: list[bytes]) -> None:
            super().on_messages(messages)
            self.websocket.pause()

    lockstep = trio.testing.lockstep_stream_pair  # sending waits until it is read
    async with (
        opened(implementation, streams=lockstep, receiver=Pausing()) as it,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(it.peer.receive_all)
        for message in ("one", "two", "three"):
            begin = trio.current_time()
            with trio.move_on_after(3):
                await it.peer.send(text(message))
            await trio.sleep_until(begin + 3)
            assert it.websocket.paused
            it.websocket.resume()
            assert not it.websocket.paused
            assert it.websocket.last_received == trio.current_time()
            it.websocket.resume()  # a second time changes nothing
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert it.notes.messages == [b"one", b"two", b"three"]


async def test_pausing_again_at_once_keeps_it_paused(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.pause()
        await it.peer.send(text("read already"))
        await it.notes.wait(messages=1)
        await trio.testing.wait_all_tasks_blocked()
        it.websocket.resume()
        it.websocket.pause()
        await it.peer.send(text("not read yet"))
        await trio.testing.wait_all_tasks_blocked()
        assert it.notes.messages == [b"read already"]
        it.websocket.resume()
        await it.notes.wait(messages=2)
        assert it.notes.messages[1:] == [b"not read yet"]


async def test_closing_while_paused_reads_the_peers_close(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.pause()
        await it.peer.send(text("one"))
        await it.notes.wait(messages=1)
        await it.peer.send(text("two"), close(1000))
        begin = trio.current_time()
        await it.close()
        assert trio.current_time() == begin
        assert it.notes.messages == [b"one"]
        assert it.websocket.close_received == CloseFrame(1000, "")


# ------------------------------------------------------------------------------ closing


async def test_our_close_comes_behind_our_last_words_and_is_answered(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.send_nowait(b"last words", last=True)
        it.close_soon(4001)
        assert await it.peer.receive() == (Opcode.TEXT, b"last words")
        assert await it.peer.expect_close() == 4001
        with pytest.raises(SendQueueClosed):
            it.websocket.send_nowait(b"more")
        await it.peer.send(text("dropped"), frame(Opcode.PING), close(4001, "as you say"))
        assert await it.peer.receive() is None
        assert it.websocket.close_received == CloseFrame(4001, "as you say")
        assert it.notes.messages == []
        assert trio.current_time() == pytest.approx(0, abs=TIMEOUT / 10)


@pytest.mark.parametrize(
    ("payload", "how"),
    [
        (b"", CloseFrame(1005, "")),
        (b"\x03\xe8", CloseFrame(1000, "")),
        (b"\x0f\xa0" + "Auf Wiedersehen, schöne Welt".encode(), None),
        (b"\x0b\xb8" + b"x" * 123, CloseFrame(3000, "x" * 123)),
    ],
)
async def test_the_peers_close_is_echoed(
    payload: bytes,
    how: CloseFrame | None,
    implementation: Implementation,
    autojump_clock: trio.abc.Clock,
) -> None:
    async with opened(implementation) as it:
        it.websocket.send_nowait(b"queued before")
        await it.peer.send(text("one"), frame(Opcode.CLOSE, payload), text("never seen"))
        await it.notes.wait(messages=1, departures=1)
        assert it.notes.messages == [b"one"]
        assert it.notes.departures == 1
        assert it.websocket.close_received == (
            how or CloseFrame(4000, "Auf Wiedersehen, schöne Welt")
        )
        it.close_soon()
        assert await it.peer.receive_all() == [
            (Opcode.TEXT, b"queued before"),
            (Opcode.CLOSE, payload),
        ]


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"\x03", 1002),
        *((code.to_bytes(2, "big"), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)),
        (b"\x03\xe8\xff", 1007),
    ],
)
async def test_a_malformed_close_is_answered_with_what_is_wrong(
    payload: bytes, answer: int, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        await it.peer.send(frame(Opcode.CLOSE, payload))
        await it.notes.wait(departures=1)
        it.close_soon()
        assert await it.peer.expect_close() == answer
        assert await it.peer.receive() is None
        assert it.websocket.close_received == CloseFrame(1006, "")
        assert it.notes.departures == 1


async def test_a_malformed_answer_to_our_close_is_an_answer(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.close_soon(1001)
        assert await it.peer.expect_close() == 1001
        await it.peer.send(frame(Opcode.CLOSE, b"\x00"))
        assert await it.peer.receive() is None
        assert trio.current_time() == pytest.approx(0, abs=TIMEOUT / 10)


@pytest.mark.parametrize("ticks", range(25))
@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.CLOSE, Opcode.TEXT])
async def test_a_frame_that_crosses_our_close_does_no_harm_at_any_moment(
    opcode: Opcode, ticks: int, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        payload = b"\x03\xe8" if opcode is Opcode.CLOSE else b"x"
        await it.peer.send(frame(opcode, payload), frame(opcode, payload))
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        it.close_soon(1001)
        received: list[tuple[Opcode, bytes]] = []
        while not received or received[-1][0] is not Opcode.CLOSE:
            item = await it.peer.receive()
            assert item is not None, "no Close frame came"
            received.append(item)
        if opcode is not Opcode.CLOSE:
            await it.peer.send(close(1001))
        assert await it.peer.receive() is None
        assert it.websocket.close_received is not None
        assert it.websocket.close_received.code in (1000, 1001)
        assert it.notes.departures == 1
        assert trio.current_time() == pytest.approx(0, abs=TIMEOUT / 10)


@pytest.mark.parametrize("behaviour", ["silent", "talking", "pinging"])
async def test_a_peer_that_never_answers_our_close_is_waited_for_so_long(
    behaviour: str, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    said = {"silent": b"", "talking": text("x" * 1000), "pinging": frame(Opcode.PING, b"x")}

    async def talk(peer: Peer) -> None:
        while True:
            await trio.sleep(0.1)
            await peer.send(said[behaviour])

    async with opened(implementation) as it, trio.open_nursery() as nursery:
        nursery.start_soon(talk, it.peer)
        begin = trio.current_time()
        await it.close()
        assert trio.current_time() - begin == pytest.approx(TIMEOUT)
        nursery.cancel_scope.cancel()
        assert it.notes.messages == []


@pytest.mark.parametrize("queued", [0, 1, 100])
async def test_closing_over_a_transport_that_takes_nothing_is_over_in_time(
    queued: int, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, streams=trio.testing.lockstep_stream_pair) as it:
        for _ in range(queued):
            it.websocket.send_nowait(b"x" * 10_000, urgent=True)
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        await it.close()
        assert trio.current_time() - begin == pytest.approx(TIMEOUT)


async def test_closing_can_be_cancelled_and_closes_the_transport(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        with trio.move_on_after(1) as scope:
            await it.close()
        assert scope.cancelled_caught
        assert await it.peer.expect_close() == 1000
        assert await it.peer.receive() is None


@pytest.mark.parametrize("ticks", range(12))
async def test_closing_can_be_cancelled_at_every_await(
    ticks: int, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.close)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(0, abs=TIMEOUT / 10)


async def test_closing_twice_is_closing_once(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.close_soon(1000)
        await trio.testing.wait_all_tasks_blocked()
        it.close_soon(1001)
        assert await it.peer.expect_close() == 1000
        await it.peer.send(close())
        assert await it.peer.receive() is None
        await it.close(1002)


CONVERSATION: Final = b"".join(
    (
        text("one"),
        frame(Opcode.PING, b"?"),
        frame(Opcode.TEXT, b"tw", final=False),
        frame(Opcode.CONTINUATION, b"o"),
        frame(Opcode.PONG, b"!"),
        close(1000, "bye"),
    )
)


@pytest.mark.parametrize("cut", range(len(CONVERSATION) + 1))
async def test_a_peer_that_vanishes_at_any_moment_has_left(
    cut: int, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.send_nowait(b"nobody reads this")
        if cut:
            await it.peer.send(CONVERSATION[:cut])
        await it.peer.stream.aclose()
        await it.notes.wait(departures=1)
        whole = cut == len(CONVERSATION)
        assert it.websocket.close_received == (
            CloseFrame(1000, "bye") if whole else CloseFrame(1006, "")
        )
        begin = trio.current_time()
        await it.close()
        assert trio.current_time() == begin
    assert it.notes.messages in ([], [b"one"], [b"one", b"two"])


# ------------------------------------------------------------------------------ bad peers


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_after_a_violation_an_answered_close_ends_it_at_once(
    name: str, implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    wrong, code = VIOLATIONS[name]
    async with opened(implementation) as it:
        await it.peer.send(text("before"), wrong, text("never seen"), frame(Opcode.PING))
        await it.notes.wait(codes=1)
        close_code = ERRORS[code].close_code
        assert close_code is not None
        it.close_soon(close_code)
        assert await it.peer.expect_close() == close_code
        masked = "unmasked" not in name  # who does not mask, does not mask its Close either
        answer = close_code.to_bytes(2, "big")
        await it.peer.send(text("nor this"), frame(Opcode.CLOSE, answer, masked=masked))
        assert await it.peer.receive() is None
        assert it.notes.codes == [code]
        assert it.notes.messages == [b"before"]
        assert it.notes.departures == 1
        assert it.websocket.close_received == CloseFrame(close_code, "")
        assert trio.current_time() == pytest.approx(0, abs=TIMEOUT / 10)


async def test_in_noise_a_close_is_not_waited_for_long(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        await it.peer.send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 10)
        await it.notes.wait(codes=1)
        assert it.notes.codes == ["protocol_error"]
        begin = trio.current_time()
        await it.close(1002)
        assert trio.current_time() - begin <= 1.1


async def test_a_pinging_peer_that_does_not_read_is_not_read_either(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    sent = 0

    async def flood(peer: Peer) -> None:
        nonlocal sent
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.send(frame(Opcode.PING, b"x" * 125) * 10)
                sent += 1

    async with (
        opened(implementation, streams=trio.testing.lockstep_stream_pair) as it,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flood, it.peer)
        await trio.sleep(MAX_AGE - 1)
        assert sent <= 1
        assert it.websocket.send_queue.queued_bytes < 1000
        await it.notes.wait(codes=1)
        await it.close(4002)
        assert it.notes.codes == ["slow_consumer"]
        nursery.cancel_scope.cancel()
    assert sent <= 3


async def test_a_pinging_peer_that_reads_gets_all_its_pongs_and_its_turn(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        await it.peer.send(frame(Opcode.PING) * 500, text("still there"))
        assert [await it.peer.receive() for _ in range(500)] == [(Opcode.PONG, b"")] * 500
        await it.notes.wait(messages=1)
        assert it.notes.messages == [b"still there"]


async def test_a_ping_is_answered_and_reading_goes_on_though_much_data_waits(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, streams=trio.testing.lockstep_stream_pair) as it:
        for _ in range(10):
            it.websocket.send_nowait(b"x" * 64_000)
        await it.peer.send(frame(Opcode.PING, b"?"), text("cancel"))
        await it.peer.receive()
        while not it.notes.messages:
            await it.peer.receive()
            await trio.testing.wait_all_tasks_blocked()
        assert it.websocket.send_queue.queued_bytes > 5 * 64_000


async def test_a_peer_that_reads_too_slowly_is_told_of_once(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation, streams=trio.testing.lockstep_stream_pair) as it:
        it.websocket.send_nowait(b"x" * 100)
        await trio.sleep(MAX_AGE + 1)
        assert it.notes.codes == ["slow_consumer"]
        with pytest.raises(SendQueueClosed):
            it.websocket.ping_nowait(b"")
        begin = trio.current_time()
        await it.close(4002)
        assert trio.current_time() - begin <= TIMEOUT


@pytest.mark.parametrize(
    "by_poller",
    [pytest.param(BY_POLLER, id="plain"), pytest.param(BY_POLLER_OVER_TLS, id="TLS")],
)
@LINUX
async def test_a_stream_that_its_owner_closes_is_not_taken_for_who_has_its_number_next(
    by_poller: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    owned = by_poller.streams()
    async with opened(by_poller, streams=lambda: owned) as it:
        was = socket_below(owned[0])
        assert was is not None
        number = was.fileno()
        await owned[0].aclose()
        ends = socket.socketpair()
        ours, theirs = sorted(ends, key=lambda end: end.fileno() != number)
        with ours, theirs:
            assert ours.fileno() == number
            foreign = text("for somebody else")
            theirs.send(foreign)
            it.websocket.send_nowait(b"for alice")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(SendQueueClosed):
                it.websocket.send_nowait(b"for alice, too")
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            await it.close()
            assert it.notes.messages == []
            assert ours.recv(100) == foreign


async def _survive(implementation: Implementation, data: bytes, cut: int) -> None:
    async with opened(implementation, rest=data[:cut], receiver=Echo()) as it:
        if data[cut:]:
            await it.peer.send(data[cut:])
        await trio.testing.wait_all_tasks_blocked()


hostile = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.one_of(
            st.builds(
                frame,
                st.integers(0, 15),
                st.binary(max_size=130),
                final=st.booleans(),
                reserved=st.sampled_from([0, 0, 0, 1]),
                masked=st.sampled_from([True, True, True, False]),
            ),
            st.builds(close, st.integers(0, 5000)),
        ),
        max_size=8,
    ).map(b"".join),
)


@given(data=hostile, cut=st.integers(0, 100))
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("source", WAYS)
def test_nothing_that_a_peer_sends_raises_anything_or_leaves_a_task(
    source: Implementation, data: bytes, cut: int
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(partial(_survive, source, data, cut), clock=clock)
