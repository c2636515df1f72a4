"""One accepted WebSocket: batches of messages in, frames out.

Messages are passed to a `MessageHandler` by a plain function call, one batch for each read. So a
handler that does not block runs where its message was decoded, without a task switch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntFlag
from functools import partial
from time import thread_time
from typing import Final, Protocol

import trio

from protocol import SUBPROTOCOL
from trioserver.websocket.close_frame import ABNORMAL_CLOSE, CloseFrame, parse_close
from trioserver.websocket.control import ClosingHandshake
from trioserver.websocket.frames import Control, FrameDecoder, Item, Violation
from trioserver.websocket.handshake import Head, subprotocols, switching_protocols_response
from trioserver.websocket.headers import Opcode, encode_frame, encode_text
from trioserver.websocket.memory import MemoryAccount, MemoryLimiter
from trioserver.websocket.pace import Pace
from trioserver.websocket.peer_end import watched_for_end
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.send_queue import SendQueue, SendQueueClosed
from trioserver.websocket.tls_stream import TLSStream, socket_of

_RECEIVE_BYTES: Final = 64 * 1024

_ROUND_BYTES: Final = 1536
"""Read of one socket at a time, before the others get their turn: some 16 small messages. Half as
many cost who sends many at once, twice as many cost those who wait for them."""

_LISTEN_BYTES: Final = 16 * 1024
"""Read of a peer while reading is paused, to know whether it lives. No less than a TLS record has,
which has to be read whole."""

_MOST_HELD: Final = 2
"""Rounds for which answers may wait for a task. It is woken before the first of them ends, and has
its turn before the second does."""

SHORT_PAUSE: Final = 1.0
"""Seconds of a pause after which the peer's end is watched for, and ends the connection. In a
shorter pause what the peer sent before its end is still handled, as it is without a pause; and
pauses that come and go with each batch of messages cost no system calls."""

_CLOSE_TIMEOUT_IN_NOISE: Final = 1.0
"""Seconds for the closing handshake where the peer's Close frame may not be told from noise, or
stands behind thousands of other control frames."""

CONTROL_FRAMES_PER_SECOND: Final = 50
"""Pings and pongs of one peer, where nothing else is said."""


class Pause(IntFlag):
    """Why reading is paused. It goes on when none of these is left."""

    QUEUE = 1
    """The handler has enough messages."""
    ROOM = 2
    """The peer is to read the answers first."""
    MEMORY = 4
    """All connections together hold too much, and this one holds much of it."""


class MessageHandler(Protocol):
    """What happens on a WebSocket. Plain functions: they must not block."""

    @property
    def about_to_send(self) -> bool:
        """Whether answers come as soon as other tasks have had their turn."""

    def on_messages(self, messages: list[bytes]) -> None:
        """Text messages, known to be UTF-8, in the order of the wire; all that one read gave."""

    def on_error(self, code: str) -> None:
        """The peer broke a rule, or reads too slowly: ``code`` is a row of `protocol.errors`.

        Called once at the most; no message follows.
        """

    def on_disconnect(self) -> None:
        """The peer has closed, or its transport has ended: see ``close_received``. Called once."""


class WebSocket:
    """A WebSocket on ``stream``; `accept` first, then `start`, `close` at the end.

    ``max_message_bytes`` may be changed at any time. ``on_round_trip`` is called with the seconds
    from a ping to its pong, ``round_trip`` is the last of them. All times are Trio's clock, in
    seconds.
    """

    __slots__ = (
        "_closing", "_closing_handshake", "_decoder", "_failed_with", "_gone", "_handler", "_held",
        "_listening", "_nursery", "_pace", "_partial", "_pauses", "_ping_messages", "_pinged",
        "_poller", "_rest", "_resumed", "_socket", "_stopped", "_stream", "_tls", "_watched",
        "bytes_received", "close_received", "control_frames_per_second", "last_received",
        "memory_account", "messages_received", "on_round_trip", "round_trip", "send_queue",
        "subprotocol",
    )  # fmt: skip

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_message_bytes: int,
        send_queue_bytes: int,
        send_queue_age: float,
        control_frames_per_second: int = CONTROL_FRAMES_PER_SECOND,
        poller: SocketPoller | None = None,
        memory: MemoryLimiter | None = None,
    ) -> None:
        self.close_received: CloseFrame | None = None
        self.subprotocol: str | None = None
        self.bytes_received = 0
        self.messages_received = 0
        self.last_received = trio.current_time()
        self.control_frames_per_second = control_frames_per_second
        self._pace = Pace(control_frames_per_second, self.last_received)
        self.round_trip: float | None = None
        self.on_round_trip: Callable[[float], None] = _ignore
        self._stream = stream
        # Its descriptor is asked for at each use: the number of a stream that its owner has closed
        # belongs to another socket soon.
        self._socket = socket = socket_of(stream)
        self._watched = -1  # the descriptor that `SocketPoller` has; only for it to forget it
        self._tls = stream if isinstance(stream, TLSStream) else None
        self.memory_account = MemoryAccount(memory, self)
        self.send_queue = SendQueue(
            stream,
            memory=self.memory_account,
            max_bytes=send_queue_bytes,
            max_age=send_queue_age,
            on_expired=self._fail_slow,
            write_nowait=None if socket is None else self._write_nowait,
        )
        self._poller = None if socket is None else poller
        self._nursery: trio.Nursery | None = None
        self._decoder = FrameDecoder(masked=True, max_message_bytes=max_message_bytes)
        self._rest = b""
        self._handler: MessageHandler | None = None
        self._pauses = 0  # of `Pause`
        self._resumed: trio.Event | None = None  # while there is any
        self._listening = False  # once, while paused
        self._partial = False  # whether the debt is told of a message that is not complete
        self._held = 0  # rounds for which answers were held back for those of a task to come
        self._closing = False
        self._closing_handshake: ClosingHandshake | None = None
        self._gone = False  # nothing can come any more
        self._stopped = False  # no task is started any more
        self._failed_with: str | None = None
        self._pinged: tuple[bytes | None, float] | None = None  # None: by a message
        self._ping_messages = 0

    # -------------------------------------------------------------------------- opening

    def accept(self, nursery: trio.Nursery, head: Head) -> None:
        """Answer the opening handshake; tasks of this WebSocket run in ``nursery``.

        The answer leaves together with what is sent before `start`, in one call.
        """
        self._nursery = nursery
        self._rest = head.trailing_data
        self.subprotocol = SUBPROTOCOL if SUBPROTOCOL in subprotocols(head) else None
        self.send_queue.start(nursery)
        self.send_queue.cork()
        self.send_queue.put_control_nowait(switching_protocols_response(head, self.subprotocol))

    def start(self, nursery: trio.Nursery, handler: MessageHandler) -> None:
        """Read from now on, and tell ``handler``."""
        self._handler = handler
        self.send_queue.uncork()
        if self._rest or self._poller is None:
            rest, self._rest = self._rest, b""
            nursery.start_soon(self._read, self._take(rest) if rest else [])
        else:
            self._watch(self._poller)

    # -------------------------------------------------------------------------- sending

    def send_nowait(self, message: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a text message. Parameters and exceptions are those of `SendQueue.put_nowait`."""
        self.send_frame_nowait(encode_text(message), urgent=urgent, last=last)

    def send_frame_nowait(self, frame: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a frame that is encoded already, as one for many is. Raises as `send_nowait`.

        Where that is soon enough, it leaves together with what else is sent within this tick.
        """
        send_queue = self.send_queue
        if not send_queue.corked:
            poller = self._poller
            if poller is not None and poller.in_batch:
                send_queue.cork()
                poller.defer_flush(self)
        send_queue.put_nowait(frame, urgent=urgent, last=last)

    @property
    def messages_sent(self) -> int:
        """How many text messages were taken for sending."""
        return self.send_queue.data_put + self._ping_messages

    def ping_nowait(self, payload: bytes) -> None:
        """Send a Ping ahead of all data; its Pong sets ``round_trip``. Raises `SendQueueClosed`."""
        self._pinged = (payload, trio.current_time())
        self.send_queue.put_control_nowait(encode_frame(Opcode.PING, payload))

    def ping_message_nowait(self, message: bytes) -> None:
        """Send a text message as a Ping is sent: ahead of all data; `take_pong` is for its answer.

        Raises `SendQueueClosed`.
        """
        self._pinged = (None, trio.current_time())
        self.send_queue.put_control_nowait(encode_text(message))
        self._ping_messages += 1

    # -------------------------------------------------------------------------- receiving

    @property
    def max_message_bytes(self) -> int:
        """The size of a message beyond which `MessageHandler.on_error` says ``message_too_big``."""
        return self._decoder.max_message_bytes

    @max_message_bytes.setter
    def max_message_bytes(self, value: int) -> None:
        self._decoder.max_message_bytes = value

    def expect_more(self) -> None:
        """The peer is authenticated: from now on take as much of it as of any that is."""
        self._pace = Pace(self.control_frames_per_second, trio.current_time(), known=True)

    @property
    def paused(self) -> bool:
        """Whether reading is paused: then a silent peer may only be a peer that is not heard."""
        return self._resumed is not None

    def pause(self, why: Pause = Pause.QUEUE) -> None:
        """Read no more until `resume`; what one read gave is still delivered."""
        self._pauses |= why
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self, why: Pause = Pause.QUEUE) -> None:
        """Read again, unless there is another reason not to."""
        self._pauses &= ~why
        if self._resumed is not None and not self._pauses:
            self._resumed.set()
            self._resumed = None
            self.last_received = trio.current_time()

    def listen(self) -> None:
        """Read one piece although reading is paused: does the peer live?"""
        if self._resumed is not None:
            self._listening = True
            self._resumed.set()
            self._resumed = trio.Event()

    def pause_for_memory(self) -> None:
        """See `MemoryHolder`."""
        self.pause(Pause.MEMORY)

    def resume_after_memory(self) -> None:
        """See `MemoryHolder`."""
        self.resume(Pause.MEMORY)

    def evict(self, *, slow: bool) -> None:
        """See `MemoryHolder`."""
        self._fail("slow_consumer" if slow else "server_busy")

    def _has_room(self) -> bool:
        """Whether there is room for answers; reading is paused until there is."""
        send_queue = self.send_queue
        if (
            send_queue.queued_bytes <= send_queue.low_water_bytes
            or self._closing
            or self._failed_with
        ):
            return True
        send_queue.uncork()
        if send_queue.queued_bytes <= send_queue.low_water_bytes:
            return True
        self.pause(Pause.ROOM)
        send_queue.call_when_room(self._resume_with_room)
        return False

    def _resume_with_room(self) -> None:
        self.resume(Pause.ROOM)

    async def _read(self, items: list[Item] | None) -> None:
        """Deliver ``items``, and read on in this task, or leave that to the readiness of all
        sockets. None is the end."""
        while items is not None:
            await self._deliver(items)
            self._count_partial(items)
            if self._pace.left <= 0 and (rest := self._pace.rest(trio.current_time())):
                await trio.sleep(rest)
            if self._gone or (self._closing_handshake and self._closing_handshake.over.is_set()):
                break
            if not self._has_room() or self._resumed is not None:
                await self._wait_resumed()
                if self._gone:
                    break
            if self._poller is not None and self._resumed is None:
                self._watch(self._poller)
                return
            items = self._take(await self._receive())
        self._gone = True
        if self._closing_handshake is not None:
            self._closing_handshake.abandon()
        self._leave(ABNORMAL_CLOSE)

    async def _wait_resumed(self) -> None:
        """Wait until reading may go on, or the peer has ended."""
        with trio.move_on_after(SHORT_PAUSE):
            await self._wait_wanted()
        if not self._is_wanted:
            async with watched_for_end(self._stream, self._poller, self._end_in_pause):
                await self._wait_wanted()
        self._listening = False

    @property
    def _is_wanted(self) -> bool:
        """Whether something is to be read, or can't be any more."""
        return self._resumed is None or self._closing or self._listening or self._gone

    async def _wait_wanted(self) -> None:
        while not self._is_wanted:
            assert self._resumed is not None
            await self._resumed.wait()

    def _end_in_pause(self) -> None:
        """The peer has ended; what it sent before is not read any more."""
        self._gone = True
        if self._resumed is not None:
            self._resumed.set()

    def _take(self, data: bytes) -> list[Item] | None:
        """Decode what one read gave; None where it gave nothing, for that is the end."""
        if not data:
            return None
        self.bytes_received += len(data)
        self.last_received = trio.current_time()
        decoder = self._decoder
        items = decoder.receive(data)
        self._pace.left -= 1 + decoder.frames
        decoder.frames = 0
        self._count_partial(items)
        return items

    def _count_partial(self, items: list[Item]) -> None:
        """A message that has begun to come grows only by reads that complete none."""
        if self._partial or not items:
            size = self._decoder.partial_bytes
            self._partial = size > 0
            self.memory_account.set_partial(size)

    async def _receive(self) -> bytes:
        size = _RECEIVE_BYTES if self._resumed is None else _LISTEN_BYTES
        try:
            return bytes(await self._stream.receive_some(size))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # What `SocketPoller` calls: messages are delivered as they come, with no task of our own.

    def _watch(self, poller: SocketPoller) -> None:
        socket = socket_of(self._stream)  # a new one since the TLS handshake
        descriptor = -1 if socket is None else socket.fileno()
        if self._stopped or descriptor < 0:
            self._start_reading(None)
        else:
            self._watched = descriptor
            poller.watch(descriptor, self)

    def _unwatch(self) -> None:
        if self._poller is not None and self._watched >= 0:
            self._poller.unwatch(self._watched, self)
            self._watched = -1

    def read_nowait(self) -> bytes | None:
        """See `PollHandler`."""
        send_queue = self.send_queue
        if send_queue.queued_bytes > send_queue.low_water_bytes and not self._has_room():
            self._go_on_in_task([])
            return None
        try:
            if self._tls is not None:
                return self._tls.read_nowait()
            # A message of more bytes than are read in a round is none of many: read on faster.
            wanted = min(max(self._decoder.missing, _ROUND_BYTES), _RECEIVE_BYTES)
            return os.read(self._socket.fileno(), wanted)  # type: ignore[union-attr]  # is watched
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def receive_nowait(self, data: bytes, now: float) -> None:
        """See `PollHandler`. Answers are held back until `flush_nowait`."""
        if not data:
            self._go_on_in_task(None)
            return
        self.bytes_received += len(data)
        self.last_received = now
        decoder, pace = self._decoder, self._pace
        items = decoder.receive(data)
        if self._partial or not items:
            self._count_partial(items)
        pace.left -= 1
        if decoder.frames:
            pace.left -= decoder.frames
            decoder.frames = 0
        if pace.left <= 0 or not decoder.only_messages:
            self._go_on_in_task(items)
            return
        self._hand_over(items, now)  # type: ignore[arg-type]  # all of them are messages
        if self._resumed is not None:
            self._go_on_in_task([])

    def flush_nowait(self) -> bool:
        """See `PollHandler`."""
        handler = self._handler
        if handler is not None and self._held < _MOST_HELD and handler.about_to_send:
            self._held += 1
            return False
        self._held = 0
        self.send_queue.uncork()
        return True

    def answered(self) -> None:
        """What is held back may leave: now, or together with what other connections send."""
        if not self._held:
            self.send_queue.uncork()

    def _go_on_in_task(self, items: list[Item] | None) -> None:
        """Control frames and the end may have to wait for something; large messages for others."""
        start = partial(self._start_reading, items)
        if self._poller is None:
            start()
            return
        self._unwatch()
        if items and self._decoder.has_large:
            waiting = sum(len(item) for item in items if isinstance(item, bytes))
            self._partial = True
            self.memory_account.set_partial(waiting + self._decoder.partial_bytes)
            self._poller.schedule_large_start(start)
        else:
            self._poller.schedule_start(start)

    def _start_reading(self, items: list[Item] | None) -> None:
        if not self._stopped:  # it may have ended while others had their turn
            assert self._nursery is not None
            self._nursery.start_soon(self._read, items)

    async def _deliver(self, items: list[Item]) -> None:
        """Messages in batches; a control frame in between is dealt with before what is behind."""
        batch: list[bytes] = []
        for item in items:
            if isinstance(item, bytes):
                batch.append(item)
                continue
            self._deliver_batch(batch)
            batch = []
            if isinstance(item, Violation):
                self._fail(item.code)
            else:
                await self._take_control(item)
        self._deliver_batch(batch)

    def _deliver_batch(self, batch: list[bytes]) -> None:
        """What the handler sends in answer to one batch leaves in one call."""
        begun = thread_time()
        try:
            self._hand_over(batch, trio.current_time())
        finally:
            self.send_queue.uncork()
            if self._poller is not None:
                self._poller.record_duration(thread_time() - begun)

    def _hand_over(self, batch: list[bytes], now: float) -> None:
        """Answers are held back from here on."""
        if batch and not self._closing and self._failed_with is None:
            assert self._handler is not None
            self.messages_received += len(batch)
            self.send_queue.cork(now)
            self._handler.on_messages(batch)

    async def _take_control(self, control: Control) -> None:
        if control.opcode is Opcode.CLOSE:
            how, echo = parse_close(control.payload)
            self._leave(how)
            await self._begin_closing().take(Control(Opcode.CLOSE, echo))
        elif self._closing or self._failed_with is not None:
            return  # only the peer's Close is of interest now
        elif not self._pace.allows_control(trio.current_time()):
            self._fail("rate_limited")
        elif control.opcode is Opcode.PONG:
            self.take_pong(control.payload)
        else:
            # What came behind a Ping is not looked at before its Pong has been written.
            try:
                await self.send_queue.send_control(encode_frame(Opcode.PONG, control.payload))
            except SendQueueClosed:
                self._gone = True

    def take_pong(self, payload: bytes | None) -> None:
        """A Pong with this payload, or with None the answer to a `ping_message_nowait`."""
        if self._pinged is not None and payload == self._pinged[0]:
            self.round_trip = trio.current_time() - self._pinged[1]
            self._pinged = None
            self.on_round_trip(self.round_trip)

    def _leave(self, how: CloseFrame) -> None:
        if self.close_received is None:
            self.close_received = how
            if self._handler is not None:
                self._handler.on_disconnect()

    def _fail(self, code: str) -> None:
        if self._failed_with is None and not self._closing and self._handler is not None:
            self._failed_with = code
            self._decoder.discard_data()
            self._handler.on_error(code)

    def _fail_slow(self) -> None:
        self._fail("slow_consumer")

    # -------------------------------------------------------------------------- closing

    async def close(self, code: int, reason: str, *, timeout: float) -> None:
        """Send what is queued, then a Close frame; wait for the peer's; close the transport.

        Returns within ``timeout`` seconds, whatever the peer does, and also when cancelled; then
        the transport is closed without ceremony. For after `accept`; may be called when the peer
        has left, and more than once.
        """
        self._closing = True
        self._decoder.discard_data()
        self.resume(Pause.QUEUE | Pause.ROOM | Pause.MEMORY)
        if self._failed_with in ("protocol_error", "rate_limited"):
            timeout = min(timeout, _CLOSE_TIMEOUT_IN_NOISE)
        try:
            with trio.move_on_after(timeout):
                if not self._gone:
                    await self._begin_closing().close(code, reason)
        finally:
            self._stop()
            await trio.aclose_forcefully(self._stream)

    def _begin_closing(self) -> ClosingHandshake:
        """The closing handshake, whoever is first to begin it."""
        if self._closing_handshake is None:
            assert self._nursery is not None, "closed before it was accepted"
            self._closing_handshake = ClosingHandshake(self._nursery, self.send_queue)
        return self._closing_handshake

    def _stop(self) -> None:
        """Let all tasks come to their end; a socket is watched no more before it is closed."""
        self._stopped = True
        self._unwatch()
        if self._closing_handshake is not None:
            self._closing_handshake.abandon()
        self.send_queue.close()
        self.memory_account.close()

    def release(self) -> None:
        """Hold nobody any more, after the end: what is no cycle is freed at once, without a search
        through all that thousands of other connections hold."""
        self._stop()
        self._handler = None
        self.on_round_trip = _ignore
        self._closing_handshake = None
        self._nursery = None
        self.send_queue.release()

    def _write_nowait(self, data: bytes | memoryview) -> int:
        try:
            if self._tls is not None:
                return self._tls.write_nowait(data)
            return os.write(self._socket.fileno(), data)  # type: ignore[union-attr]  # it has one
        except BlockingIOError:
            return 0


def _ignore(seconds: float) -> None:
    pass
