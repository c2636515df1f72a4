"""One accepted WebSocket: batches of messages in, frames out.

Messages are passed to a `MessageHandler` by a plain function call, one batch for each read. So a
handler that does not block runs where its message was decoded, without a task switch.
"""

from __future__ import annotations

from time import thread_time
from typing import Final, Protocol

import trio

from protocol import SUBPROTOCOL
from trioserver.websocket.close_frame import CloseFrame
from trioserver.websocket.control import ClosingHandshake
from trioserver.websocket.frames import Control, FrameDecoder, Item, Violation
from trioserver.websocket.handshake import Head, subprotocols, switching_protocols_response
from trioserver.websocket.headers import Opcode, encode_frame, encode_text
from trioserver.websocket.memory import MemoryAccount, MemoryLimiter
from trioserver.websocket.nonblocking import nonblocking
from trioserver.websocket.pace import Pace
from trioserver.websocket.pings import Pings
from trioserver.websocket.polled_reader import PolledReader
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.protocol import State, WebSocketProtocol
from trioserver.websocket.send_queue import SendQueue, SendQueueClosed
from trioserver.websocket.task_reader import Pause, TaskReader

_CLOSE_TIMEOUT_IN_NOISE: Final = 1.0
"""Seconds for the closing handshake if the peer's Close frame cannot be told from noise, or stands
behind thousands of other control frames."""

CONTROL_FRAMES_PER_SECOND: Final = 50
"""Pings and pongs of one peer, where nothing else is said."""


class MessageHandler(Protocol):
    """What a WebSocket calls. Plain functions: they must not block."""

    @property
    def about_to_send(self) -> bool:
        """Whether answers are sent as soon as other tasks have run."""

    def on_messages(self, messages: list[bytes]) -> None:
        """Handle text messages, known to be UTF-8, in the order of the wire: all of one read."""

    def on_error(self, code: str) -> None:
        """The peer broke a rule, or reads too slowly: ``code`` is a row of `protocol.errors`.

        Called at most once; no message follows.
        """

    def on_disconnect(self) -> None:
        """The peer has closed, or its transport has ended: see ``close_received``. Called once."""


class WebSocket:
    """A WebSocket on ``stream``: call `accept` first, then `start`, `close` at the end.

    ``max_message_bytes`` may be changed at any time. All times are Trio's clock, in
    seconds.

    What may be called from outside of this package: all methods that the sections below have up to
    `close` and `release`, and those of ``send_queue``, ``pings`` and ``memory_account``.
    """

    __slots__ = (
        "_closing_handshake", "_handler", "_nursery", "_poller", "_reader", "_stream",
        "_trailing_data", "memory_account", "pings", "protocol", "send_queue", "subprotocol",
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
        now = trio.current_time()
        self.subprotocol: str | None = None
        self.pings = Pings()
        self.protocol = WebSocketProtocol(
            FrameDecoder(masked=True, max_message_bytes=max_message_bytes),
            Pace(control_frames_per_second, now),
            now,
        )
        transport = nonblocking(stream)
        self.memory_account = MemoryAccount(memory, self)
        self.send_queue = SendQueue(
            stream,
            memory=self.memory_account,
            max_bytes=send_queue_bytes,
            max_age=send_queue_age,
            on_expired=self._fail_slow,
            write_nowait=None if transport is None else transport.write_nowait,
        )
        self._stream = stream
        self._poller = None if transport is None else poller
        self._reader = (
            TaskReader(self, stream)
            if transport is None or poller is None
            else PolledReader(self, stream, transport, poller)
        )
        self._nursery: trio.Nursery | None = None
        self._trailing_data = b""
        self._handler: MessageHandler | None = None
        self._closing_handshake: ClosingHandshake | None = None

    # -------------------------------------------------------------------------- opening

    def accept(self, nursery: trio.Nursery, head: Head) -> None:
        """Answer the opening handshake; tasks of this WebSocket run in ``nursery``.

        The answer leaves together with what is sent before `start`, in one call.
        """
        self._nursery = nursery
        self._trailing_data = head.trailing_data
        self.subprotocol = SUBPROTOCOL if SUBPROTOCOL in subprotocols(head) else None
        self.send_queue.start(nursery)
        self.send_queue.cork()
        self.send_queue.put_control_nowait(switching_protocols_response(head, self.subprotocol))

    def start(self, nursery: trio.Nursery, handler: MessageHandler) -> None:
        """Read from now on, and call ``handler``."""
        self._handler = handler
        self.send_queue.uncork()
        data, self._trailing_data = self._trailing_data, b""
        self._reader.start(nursery, data)

    # -------------------------------------------------------------------------- sending

    def send_nowait(self, message: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a text message. Parameters and exceptions are those of `SendQueue.put_nowait`."""
        self.send_frame_nowait(encode_text(message), urgent=urgent, last=last)

    def send_frame_nowait(self, frame: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a frame that is encoded already, as one for many is. Raises as `send_nowait`.

        While the poller serves a batch, the frame leaves at its end, together with what else is
        sent until then.
        """
        send_queue = self.send_queue
        if not send_queue.corked:
            poller = self._poller
            if poller is not None and poller.in_batch:
                send_queue.cork()
                poller.defer_flush(self._reader)  # type: ignore[arg-type]  # is polled
        send_queue.put_nowait(frame, urgent=urgent, last=last)

    @property
    def messages_sent(self) -> int:
        """How many text messages were accepted for sending."""
        return self.send_queue.data_put + self.pings.messages

    def ping_nowait(self, payload: bytes) -> None:
        """Send a Ping before all data. Raises `SendQueueClosed`."""
        self.pings.send(payload, trio.current_time())
        self.send_queue.put_control_nowait(encode_frame(Opcode.PING, payload))

    def ping_message_nowait(self, message: bytes) -> None:
        """Send a text message as a Ping is sent: before all data. Raises `SendQueueClosed`.

        Its answer has to be passed to `Pings.receive_pong`, with None for the payload.
        """
        self.pings.send(None, trio.current_time())
        self.send_queue.put_control_nowait(encode_text(message))
        self.pings.messages += 1

    def flush_answers(self) -> None:
        """Send what is held back: now, or together with what other connections send."""
        self._reader.flush_answers()

    # -------------------------------------------------------------------------- receiving

    @property
    def close_received(self) -> CloseFrame | None:
        """How the peer closed; None until it has."""
        return self.protocol.close_received

    @property
    def bytes_received(self) -> int:
        """The bytes that were read since the opening handshake."""
        return self.protocol.bytes_received

    @property
    def messages_received(self) -> int:
        """How many text messages were passed to the handler."""
        return self.protocol.messages_received

    @property
    def last_received(self) -> float:
        """When something was read last, or reading was resumed."""
        return self.protocol.last_received

    @property
    def max_message_bytes(self) -> int:
        """The size of a message above which the handler gets the error ``message_too_big``."""
        return self.protocol.decoder.max_message_bytes

    @max_message_bytes.setter
    def max_message_bytes(self, value: int) -> None:
        self.protocol.decoder.max_message_bytes = value

    def expect_more(self) -> None:
        """Give the peer the allowances of one that is authenticated."""
        self.protocol.pace = self.protocol.pace.authenticated(trio.current_time())

    @property
    def paused(self) -> bool:
        """Whether reading is paused: then a peer may be silent because it is not read."""
        return self._reader.paused

    def pause(self, why: Pause = Pause.QUEUE) -> None:
        """Read no more until `resume`; what one read gave is still delivered."""
        self._reader.pause(why)

    def resume(self, why: Pause = Pause.QUEUE) -> None:
        """Read again, unless there is another reason to pause."""
        if self._reader.resume(why):
            self.protocol.last_received = trio.current_time()

    def read_once(self) -> None:
        """Read one piece although reading is paused, to learn whether the peer is alive."""
        self._reader.read_once()

    # For `MemoryLimiter`

    def pause_for_memory(self) -> None:
        """See `MemoryHolder`."""
        self.pause(Pause.MEMORY)

    def resume_after_memory(self) -> None:
        """See `MemoryHolder`."""
        self.resume(Pause.MEMORY)

    def evict(self, *, slow: bool) -> None:
        """See `MemoryHolder`."""
        self._fail("slow_consumer" if slow else "server_busy")

    # For the reader

    @property
    def has_ended(self) -> bool:
        """See `Readable`."""
        closing = self._closing_handshake
        return self.protocol.state is State.CLOSED or (closing is not None and closing.is_over)

    @property
    def about_to_send(self) -> bool:
        """See `Readable`."""
        return self._handler is not None and self._handler.about_to_send

    def has_room(self) -> bool:
        """See `Readable`."""
        send_queue = self.send_queue
        if self.protocol.state is not State.OPEN or send_queue.has_room:
            return True
        send_queue.uncork()
        if send_queue.has_room:
            return True
        self.pause(Pause.ROOM)
        send_queue.call_when_room(self._resume_with_room)
        return False

    def _resume_with_room(self) -> None:
        self.resume(Pause.ROOM)

    def deliver_messages(self, messages: list[bytes], now: float) -> None:
        """See `Readable`."""
        if messages and self.protocol.state is State.OPEN:
            assert self._handler is not None
            self.protocol.messages_received += len(messages)
            self.send_queue.cork(now)
            self._handler.on_messages(messages)

    async def deliver(self, items: list[Item]) -> None:
        """See `Readable`. A control frame is handled before what came after it."""
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
                await self._handle_control(item)
        self._deliver_batch(batch)

    def _deliver_batch(self, batch: list[bytes]) -> None:
        """What the handler sends in answer to one batch leaves in one call."""
        begun = thread_time()
        try:
            self.deliver_messages(batch, trio.current_time())
        finally:
            self.send_queue.uncork()
            if self._poller is not None:
                self._poller.record_duration(thread_time() - begun)

    async def _handle_control(self, control: Control) -> None:
        protocol = self.protocol
        if control.opcode is Opcode.CLOSE:
            is_first = protocol.close_received is None
            answer = protocol.receive_close(control.payload)
            self._report_disconnect(is_first)
            await self._begin_closing().take(Control(Opcode.CLOSE, answer))
        elif protocol.state is not State.OPEN:
            return
        elif not protocol.pace.allows_control(trio.current_time()):
            self._fail("rate_limited")
        elif control.opcode is Opcode.PONG:
            self.pings.receive_pong(control.payload, trio.current_time())
        else:
            # What came after a Ping is not handled before its Pong has been written.
            try:
                await self.send_queue.send_control(encode_frame(Opcode.PONG, control.payload))
            except SendQueueClosed:
                protocol.state = State.CLOSED  # a Close frame may be next in what was read

    def _fail(self, code: str) -> None:
        if self._handler is not None and self.protocol.fail(code):
            self._handler.on_error(code)

    def _fail_slow(self) -> None:
        self._fail("slow_consumer")

    def end(self) -> None:
        """See `Readable`."""
        is_first = self.protocol.close_received is None
        self.protocol.end()
        if self._closing_handshake is not None:
            self._closing_handshake.abort()
        self._report_disconnect(is_first)

    def _report_disconnect(self, is_first: bool) -> None:
        if is_first and self._handler is not None:
            self._handler.on_disconnect()

    # -------------------------------------------------------------------------- closing

    async def close(self, code: int, reason: str, *, timeout: float) -> None:
        """Send what is queued, then a Close frame; wait for the peer's; close the transport.

        Returns within ``timeout`` seconds, whatever the peer does, and also when cancelled; then
        the transport is closed at once. To be called after `accept`, also if the peer has
        disconnected. A second call changes nothing.
        """
        protocol = self.protocol
        protocol.begin_close()
        self.resume(Pause.QUEUE | Pause.ROOM | Pause.MEMORY)
        if protocol.error in ("protocol_error", "rate_limited"):
            timeout = min(timeout, _CLOSE_TIMEOUT_IN_NOISE)
        try:
            with trio.move_on_after(timeout):
                if protocol.state is not State.CLOSED:
                    await self._begin_closing().close(code, reason)
        finally:
            self._stop()
            await trio.aclose_forcefully(self._stream)

    def _begin_closing(self) -> ClosingHandshake:
        """Return the closing handshake, whoever is first to begin it."""
        if self._closing_handshake is None:
            assert self._nursery is not None, "closed before it was accepted"
            self._closing_handshake = ClosingHandshake(self._nursery, self.send_queue)
        return self._closing_handshake

    def _stop(self) -> None:
        """End all tasks, and have nothing watched, before the socket is closed."""
        self.protocol.state = State.CLOSED
        self._reader.stop()
        if self._closing_handshake is not None:
            self._closing_handshake.abort()
        self.send_queue.close()
        self.memory_account.close()

    def release(self) -> None:
        """Drop all references after the end. Then reference counting frees the connection at once,
        without a pass of the garbage collector over thousands of others."""
        self._stop()
        self._handler = None
        self.pings.on_round_trip = None
        self._closing_handshake = None
        self._nursery = None
        self._reader.release()
        self.send_queue.release()
