"""One WebSocket connection, as the server sees it. `Connection` is its facade for handlers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import trio

from protocol import Id, Refusal, ServerProtocol, TooBigToSendError
from trioserver.app.application import Application
from trioserver.app.connection import Connection, ConnectionStatistics
from trioserver.app.route import Route
from trioserver.auth import User
from trioserver.lifecycle.context import ConnectionContext
from trioserver.telemetry.phases import Phase, PhaseTimes
from trioserver.telemetry.tracing import ConnectionTracing
from trioserver.websocket.errors import ConnectionEnded
from trioserver.websocket.headers import encode_text
from trioserver.websocket.request import Request
from trioserver.websocket.send_queue import FrameTooBig, SendQueueClosed, SendQueueFull
from trioserver.websocket.websocket import WebSocket


class ServerConnection:
    """Binds the sans-I/O ``protocol`` to the ``websocket``; holds the user, the phase, the tasks.

    Who may call what, and when:

    - `Lifecycle` runs it. Only there, in `authentication` and in `verification` is ``user``,
      ``token``, ``acknowledges``, ``tracing``, ``nursery`` or ``auth_done`` set, a phase before
      `Phase.CLOSING` entered, and `release` called.
    - ``dispatch`` calls `refuse`, `transmit`, `transmit_if_room`, `put` and `wait_room` while
      messages are handled, and `ServerProtocol.begin` and `finish`.
    - The engine calls `deliver`, and a mailbox `transmit`, with nothing awaited before.
    - Everything else of the server may read it and call `disconnect` or `fail` at any time, also
      from inside a callback, and several times: after the end they do nothing.
    - Handlers and hooks get the ``facade`` only.

    Invariants:

    - Whoever makes the protocol queue something in ``protocol.outgoing`` calls `flush` before it
      waits for anything. `fail`, `refuse` and `disconnect` do.
    - ``protocol.close`` is the one mark of the end, and `flush` draws the conclusions: `Phase.
      CLOSING` is entered, ``ended`` and ``auth_done`` are set, and nothing is sent afterwards.
    - `Phase.READY` is entered when `ready` has been written to the transport, not when the protocol
      has queued it. Registry, presence, observers, audit and hooks see such connections only.
    - `release` comes last. It deletes ``facade``, which breaks the one reference cycle.
    """

    __slots__ = (
        "acknowledges", "application", "auth_done", "context", "ended", "facade", "id", "nursery",
        "path_params", "phases", "protocol", "recent", "request", "route", "token", "topics",
        "tracing", "user", "websocket",
    )  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        application: Application,
        route: Route,
        request: Request,
        protocol: ServerProtocol,
        websocket: WebSocket,
        context: ConnectionContext,
        accepted_at: float,
    ) -> None:
        self.id = id
        self.application = application
        self.route = route
        self.path_params: Mapping[str, str] = request.path_params
        self.request = request
        self.protocol = protocol
        self.websocket = websocket
        self.context = context
        self.facade = Connection(self)
        self.phases = PhaseTimes(accepted_at)
        self.user: User | None = None
        self.token: str | None = None  # the fingerprint of the latest
        self.acknowledges = False  # whether the client acknowledges the mailbox's messages
        self.topics: dict[str, None] = {}  # an empty set is three times as large
        self.recent: deque[str] | None = None  # types of messages; made with the first
        self.nursery: trio.Nursery | None = None
        self.auth_done: trio.Event | None = trio.Event()  # None once that has been reported
        self.ended = trio.Event()
        self.tracing: ConnectionTracing | None = None

    def __repr__(self) -> str:
        return f"<ServerConnection {self.id} on {self.route.path}>"

    # -------------------------------------------------------------------------- state

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more. The WebSocket may still be closing."""
        return self.protocol.close is not None

    @property
    def login_session_id(self) -> str | None:
        """See `Connection.login_session_id`."""
        name = self.route.session_parameter
        return None if name is None else self.path_params[name]

    @property
    def log(self) -> Any:
        """See `Connection.log`."""
        return self.facade.log

    def identify(self, user: User) -> None:
        """Set the user: after the first verification of a token, and after each refresh."""
        self.user = user
        if self.tracing is not None:
            self.tracing.user_id = user.id

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot of the counters."""
        websocket = self.websocket
        return ConnectionStatistics(
            messages_received=websocket.messages_received,
            messages_sent=websocket.messages_sent,
            bytes_received=websocket.bytes_received,
            bytes_sent=websocket.send_queue.bytes_sent,
            queued_bytes=websocket.send_queue.queued_bytes,
            subscriptions=len(self.topics),
            in_flight=len(self.protocol.in_flight),
            round_trip=websocket.pings.round_trip,
        )

    # -------------------------------------------------------------------------- sending

    async def wait_room(self, size: int = 0) -> None:
        """Wait until the send queue has room for ``size`` bytes, or the connection has ended."""
        await self.websocket.send_queue.wait_room(size)

    async def put(self, frame: bytes) -> None:
        """Queue a frame when there is room, unless the connection has ended.

        Raises `TooBigToSendError`.
        """
        await self.websocket.send_queue.wait_room(len(frame))
        if self.protocol.close is None:
            self.transmit_frame(frame)

    def transmit(self, message: bytes) -> None:
        """Queue a message, as `transmit_frame` does."""
        self.transmit_frame(encode_text(message))

    def transmit_frame(self, frame: bytes) -> None:
        """Queue a frame of a connection that has not ended; end it if the send queue is full.

        Raises `TooBigToSendError`.
        """
        if not self.transmit_if_room(frame):
            try:
                self.websocket.send_frame_nowait(frame, urgent=True)
            except SendQueueFull:
                self.fail(Refusal("slow_consumer"))

    def transmit_if_room(self, frame: bytes) -> bool:
        """Queue a frame of a connection that has not ended; return False if it has to wait.

        Raises `TooBigToSendError`.
        """
        try:
            self.websocket.send_frame_nowait(frame)
        except SendQueueFull:
            return False
        except SendQueueClosed:
            pass  # the reader is about to notice
        except FrameTooBig:
            limit = self.protocol.options.max_server_message_bytes
            raise TooBigToSendError(len(frame), limit) from None
        return True

    def deliver(self, event: bytes) -> None:
        """Queue an `event`, encoded as a frame, unless the connection has ended."""
        if self.protocol.close is None:
            try:
                self.transmit_frame(event)
            except TooBigToSendError as refusal:  # the options changed since the client connected
                self.fail(refusal)

    def refuse(self, refusal: Refusal, id: Id | None = None) -> None:
        """Answer with an error, which may end the connection."""
        self.protocol.refuse(refusal, trio.current_time(), id=id)
        self.flush()

    def fail(self, refusal: Refusal, id: Id | None = None) -> None:
        """End the connection with an error, unless it has ended."""
        self.protocol.fail(refusal, id=id)
        self.flush()

    def disconnect(self, code: str = "disconnected", message: str | None = None) -> None:
        """See `Connection.disconnect`."""
        self.fail(Refusal(code, message))

    def flush(self) -> None:
        """Send what the protocol has queued, and draw the conclusions if it has ended.

        Sending can call back, and the callback can end the connection and so call this again.
        Therefore each message is taken out before it is sent.
        """
        protocol, send_queue = self.protocol, self.websocket.send_queue
        outgoing = protocol.outgoing
        while outgoing:
            message = outgoing.pop(0)
            close = protocol.close
            if close is not None and close.reason == "slow_consumer":
                send_queue.discard()
            try:
                self.websocket.send_nowait(message, urgent=True, last=close is not None)
            except FrameTooBig:
                protocol.fail(Refusal("too_big_to_send"))  # as below
            except SendQueueFull:
                if protocol.close is None:  # otherwise it has ended while this was sent
                    send_queue.discard()
                    protocol.fail(Refusal("slow_consumer"))  # queues one more, for this very loop
            except SendQueueClosed:
                outgoing.clear()
        if protocol.close is not None and not self.ended.is_set():
            self.phases.enter(Phase.CLOSING, trio.current_time())
            self.ended.set()
            self.finish_auth()

    def finish_auth(self) -> None:
        """Wake the task that waits for the end of the first authentication, however it ended."""
        if self.auth_done is not None:
            self.auth_done.set()

    # -------------------------------------------------------------------------- topics and tasks

    def subscribe(self, topic: str) -> None:
        """See `Connection.subscribe`."""
        if topic not in self.topics and self.protocol.close is None:
            if len(self.topics) >= self.protocol.options.max_subscriptions:
                raise Refusal("too_many_in_flight", "Too many subscriptions.")
            self.topics[topic] = None
            self.application.engine.subscribe(topic, self)

    def unsubscribe(self, topic: str) -> None:
        """See `Connection.unsubscribe`."""
        self.topics.pop(topic, None)
        self.application.engine.unsubscribe(topic, self)

    def start_soon(self, async_function: Any, *args: Any) -> None:
        """See `Connection.start_soon`."""
        if self.nursery is None:
            raise ConnectionEnded(self.id)
        self.nursery.start_soon(async_function, *args)

    # -------------------------------------------------------------------------- the end

    def leave(self) -> None:
        """Leave presence and all topics, when the WebSocket has been closed."""
        if self.phases.ready is not None and self.route.has_presence:
            self.route.presence.leave(self.facade)
        for topic in self.topics:
            self.application.engine.unsubscribe(topic, self)
        self.topics.clear()

    def release(self) -> None:
        """Drop what refers back to this object, so that it is freed without the gc."""
        self.websocket.release()
        self.tracing = None
        del self.facade
