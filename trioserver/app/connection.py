"""A connection, as handlers and hooks see it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import structlog
import trio
from msgspec import UNSET

from protocol import (
    Id,
    Refusal,
    ServerProtocol,
    TooBigToSendError,
    codec,
    milliseconds,
    raw,
)
from protocol.messages import Goaway, Message
from trioserver.auth import User
from trioserver.logs.context import MAX_USER
from trioserver.websocket.errors import ConnectionEnded
from trioserver.websocket.headers import encode_text
from trioserver.websocket.outbox import FrameTooBig, OutboxClosed, OutboxFull
from trioserver.websocket.request import Request
from trioserver.websocket.websocket import WebSocket

if TYPE_CHECKING:
    from trioserver.app.application import Application
    from trioserver.app.route import Route
    from trioserver.telemetry.tracing import ConnectionTracing


@attrs.frozen(kw_only=True)
class ConnectionStatistics:
    """A snapshot. ``round_trip`` is in seconds, None until a pong has come."""

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    queued_bytes: int
    subscriptions: int
    in_flight: int
    round_trip: float | None


class Connection:
    """An authenticated client. Handlers get it; nothing of an application sees it before READY.

    ``id`` is unique and says nothing; ``resource`` are the route's path parameters; ``state`` is
    for the application to keep things in; ``log`` is a structlog logger that knows whose it is.
    """

    __slots__ = (
        "__weakref__", "_acknowledges", "_ended", "_log", "_nursery", "_phases", "_recent",
        "_session", "_settled", "_topics", "_tracing", "_user", "_wall_clock",
        "_websocket",
        "application", "id", "request", "resource", "route", "state",
    )  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        application: Application,
        route: Route,
        resource: Mapping[str, str],
        request: Request,
        session: ServerProtocol,
        websocket: WebSocket,
        wall_clock: Callable[[], float],
    ) -> None:
        self.id = id
        self.application = application
        self.route = route
        self.resource = resource
        self.request = request
        self.state: dict[str, Any] = {}
        self._log: Any = None
        self._user: User | None = None
        self._session = session
        self._websocket = websocket
        self._wall_clock = wall_clock
        self._tracing: ConnectionTracing | None = None
        self._topics: dict[str, None] = {}  # an empty set is three times as large
        self._recent: deque[str] | None = None  # types of messages; made with the first
        self._phases: Any = None
        self._nursery: trio.Nursery | None = None
        self._acknowledges = False  # what the mailbox delivers
        self._settled: trio.Event | None = trio.Event()  # ready, or ended; None from then on
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Connection {self.id} on {self.route.path}>"

    @property
    def user(self) -> User:
        """Who is on the other end; after a refresh, with the new token's claims."""
        if self._user is None:
            raise RuntimeError("nobody has been authenticated yet")
        return self._user

    @property
    def log(self) -> Any:
        """A structlog logger that knows whose it is; made with the first line, for most write none
        before their last."""
        if self._log is None:
            log = structlog.get_logger("trioserver").bind(
                connection_id=self.id, route=self.route.path
            )
            self._log = log if self._user is None else log.bind(user=self._user.id[:MAX_USER])
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        self._log = log

    def _identify(self, user: User) -> None:
        """From here on it is this user's, also in the log."""
        self._user = user
        self._log = None

    @property
    def session(self) -> str | None:
        """The session that the connection is to, where its route names one: `Application.route`."""
        name = self.route.session
        return None if name is None else self.resource[name]

    # -------------------------------------------------------------------------- sending

    async def send(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message, as soon as there is room for it: a slow client slows the sender down.

        ``fields`` go beside ``type``, where deployed clients look for them; what is new belongs in
        ``data``.

        Raises `ConnectionEnded`, a `trio.ClosedResourceError`, when the connection has ended,
        `TypeError` or `ValueError` for what JSON cannot express, and for fields that are the
        message's own: type, id, data; `protocol.TooBigToSendError` for a message that is larger
        than any that is sent. Cancelling this sends nothing.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        frame = _encode(type, data, fields)
        await self._websocket.outbox.wait_room(len(frame))
        self._check_open()
        self._transmit_frame(frame)

    def send_nowait(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message without waiting.

        Where the outbox has no room left, because the client has not read what is in it, the
        connection is closed with ``slow_consumer``. For more than a few messages use `send`.
        Raises as `send`.
        """
        self._check_open()
        self._transmit_frame(_encode(type, data, fields))

    def publish(self, topic: str, data: Any) -> int:
        """Send ``data`` to all subscribers of ``topic``, this client included if it is one.

        Raises as `Application.publish`.
        """
        return self.application.publish(topic, data)

    def subscribe(self, topic: str) -> None:
        """Let the client hear ``topic``; no permission is asked. A second time changes nothing.

        Raises `protocol.Refusal` with ``too_many_in_flight`` beyond the limit of subscriptions.
        """
        if topic not in self._topics and self._session.close is None:
            if len(self._topics) >= self._session.options.max_subscriptions:
                raise Refusal("too_many_in_flight", "Too many subscriptions.")
            self._topics[topic] = None
            self.application.engine.subscribe(topic, self)

    def unsubscribe(self, topic: str) -> None:
        """Let the client hear ``topic`` no more."""
        self._topics.pop(topic, None)
        self.application.engine.unsubscribe(topic, self)

    @property
    def topics(self) -> frozenset[str]:
        """What the client is subscribed to."""
        return frozenset(self._topics)

    def start_soon(self, async_function: Any, *args: Any) -> None:
        """Run a task for as long as the connection lasts; what it raises ends the connection.

        The task is cancelled when the connection ends. A `ConnectionEnded` of this connection, from
        a message that was too late, is no error. Raises `ConnectionEnded` when the connection has
        ended.
        """
        if self._nursery is None:
            raise ConnectionEnded(self.id)
        self._nursery.start_soon(async_function, *args)

    def disconnect(self, code: str = "disconnected", message: str | None = None) -> None:
        """End the connection with an error of `protocol.ERRORS`, or one of your own (1008)."""
        self._fail(Refusal(code, message))

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more; it may still be closing."""
        return self._session.close is not None

    def statistics(self) -> ConnectionStatistics:
        """What has gone through so far."""
        websocket = self._websocket
        return ConnectionStatistics(
            messages_received=websocket.messages_received,
            messages_sent=websocket.messages_sent,
            bytes_received=websocket.bytes_received,
            bytes_sent=websocket.outbox.bytes_sent,
            queued_bytes=websocket.outbox.queued_bytes,
            subscriptions=len(self._topics),
            in_flight=len(self._session.in_flight),
            round_trip=websocket.round_trip,
        )

    def hear(self, event: bytes) -> None:
        """Take an `event` as a frame; for the engine."""
        if self._session.close is None:
            try:
                self._transmit_frame(event)
            except (
                TooBigToSendError
            ) as refusal:  # the options have changed since this client connected
                self._fail(refusal)

    # ------------------------------------------------------------- for the rest of the server

    @property
    def _was_ready(self) -> bool:
        """Whether `ready` has left."""
        return self._phases.ready is not None

    async def _wait_for_room(self) -> None:
        await self._websocket.outbox.wait_room()

    def _transmit(self, message: bytes) -> None:
        """Queue a message of an open session; one too many ends it.

        Raises `TooBigToSendError`.
        """
        self._transmit_frame(encode_text(message))

    def _transmit_frame(self, frame: bytes) -> None:
        if not self._transmit_if_room(frame):
            try:
                self._websocket.send_frame_nowait(frame, urgent=True)
            except OutboxFull:
                self._fail(Refusal("slow_consumer"))

    def _transmit_if_room(self, frame: bytes) -> bool:
        """Queue a frame of an open session; False where it has to wait. Raises as `_transmit`."""
        try:
            self._websocket.send_frame_nowait(frame)
        except OutboxFull:
            return False
        except OutboxClosed:
            pass  # the reader is about to notice
        except FrameTooBig:
            limit = self._session.options.max_server_message_bytes
            raise TooBigToSendError(len(frame), limit) from None
        return True

    async def _put(self, frame: bytes) -> None:
        """Queue a frame when there is room, unless the session has ended. Raises as `_transmit`."""
        await self._websocket.outbox.wait_room(len(frame))
        if self._session.close is None:
            self._transmit_frame(frame)

    def _check_open(self) -> None:
        if self._session.close is not None:
            raise ConnectionEnded(self.id)

    def _refuse(self, refusal: Refusal, id: Id | None = None) -> None:
        """Answer with an error."""
        self._session.refuse(refusal, trio.current_time(), id=id)
        self._flush()

    def _fail(self, refusal: Refusal, id: Id | None = None) -> None:
        """End the connection with an error."""
        self._session.fail(refusal, id=id)
        self._flush()

    def _flush(self) -> None:
        """Send what the session wants sent; when it has ended, so has the connection."""
        session, outbox = self._session, self._websocket.outbox
        for message in session.outgoing:
            if session.close is not None and session.close.reason == "slow_consumer":
                outbox.discard()
            last = session.close is not None
            try:
                self._websocket.send_nowait(message, urgent=True, last=last)
            except FrameTooBig:
                session.fail(Refusal("too_big_to_send"))  # as below
            except OutboxFull:
                outbox.discard()
                session.fail(Refusal("slow_consumer"))  # one more for this very loop to send
            except OutboxClosed:
                break
        session.outgoing.clear()
        if session.close is not None:
            self._phases.enter("closing", trio.current_time())
            self._ended.set()
            self._settle()

    def _settle(self) -> None:
        """It is ready, or will never be; from the second time on this changes nothing."""
        if self._settled is not None:
            self._settled.set()

    def _go_away(self, reason: str, seconds: float) -> None:
        """Tell the client that it will be closed, and when to come back."""
        if self._session.close is None:
            delay = milliseconds(seconds)
            goaway = Goaway(reason=reason, deadline_ms=delay, reconnect_after_ms=delay)
            self._transmit(codec.encode(goaway))

    def _matches(
        self,
        user: str | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        connection: str | None,
    ) -> bool:
        """Whether everything that is given fits; None fits all."""
        if connection is not None and connection != self.id:
            return False
        if resource is not None and not resource.items() <= self.resource.items():
            return False
        if user is None and token_id is None:
            return True
        known = self._user
        if known is None:
            return False
        return (user is None or user == known.id) and (
            token_id is None or token_id == known.token_id
        )

    def _is_same_place(self, other: Connection) -> bool:
        """Whether the same user is connected to the same resource of the same route."""
        return (
            self.route is other.route
            and self.resource == other.resource
            and self.user.id == other.user.id
        )

    def _release(self) -> None:
        """Leave nothing behind: called once, at the end."""
        if self._was_ready and self.route.has_presence:
            self.route.presence.leave(self)
        for topic in self._topics:
            self.application.engine.unsubscribe(topic, self)
        self._topics.clear()
        self._nursery = None


def _encode(type: str, data: Any, fields: Mapping[str, Any] | None) -> bytes:
    """A message of the application's as a frame."""
    if fields:
        return encode_text(codec.encode(_with_fields(type, data, fields)))
    message = Message(type=type, data=UNSET if data is UNSET else raw(data))
    return encode_text(codec.encode(message))


def _with_fields(type: str, data: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A message with fields of its own. Raises `ValueError`."""
    own = sorted(fields.keys() & {"type", "id", "data"})
    if own:
        raise ValueError(f"{', '.join(own)}: not among the fields, a message has its own")
    return {"type": type, **fields, **({} if data is UNSET else {"data": data})}
