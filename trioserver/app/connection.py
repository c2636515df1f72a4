"""The connection that handlers and hooks get: a facade of the object that runs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import attrs
import structlog
import trio
from msgspec import UNSET

from protocol import codec, raw
from protocol.messages import Message
from trioserver.app.application import Application
from trioserver.app.route import Route
from trioserver.auth import User
from trioserver.logs.context import MAX_USER
from trioserver.websocket.errors import ConnectionEnded
from trioserver.websocket.headers import encode_text
from trioserver.websocket.request import Request


@attrs.frozen(kw_only=True)
class ConnectionStatistics:
    """A snapshot. ``round_trip`` is in seconds, None until the first pong has arrived."""

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    queued_bytes: int
    subscriptions: int
    in_flight: int
    round_trip: float | None


class ConnectionBackend(Protocol):
    """What `Connection` needs of the object behind it; `trioserver.lifecycle` implements it."""

    @property
    def id(self) -> str:
        """See `Connection.id`."""

    @property
    def application(self) -> Application:
        """See `Connection.application`."""

    @property
    def route(self) -> Route:
        """See `Connection.route`."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """See `Connection.path_params`."""

    @property
    def request(self) -> Request:
        """See `Connection.request`."""

    @property
    def user(self) -> User | None:
        """The authenticated user, None before."""

    @property
    def login_session_id(self) -> str | None:
        """See `Connection.login_session_id`."""

    @property
    def topics(self) -> Collection[str]:
        """See `Connection.topics`."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more."""

    def transmit_frame(self, frame: bytes) -> None:
        """Queue a frame. The connection is closed if the send queue is full."""

    async def wait_room(self, size: int) -> None:
        """Wait until the send queue has room for ``size`` bytes, or the connection has ended."""

    def subscribe(self, topic: str) -> None:
        """See `Connection.subscribe`."""

    def unsubscribe(self, topic: str) -> None:
        """See `Connection.unsubscribe`."""

    def start_soon(self, async_function: Any, *args: Any) -> None:
        """See `Connection.start_soon`."""

    def disconnect(self, code: str = "disconnected", message: str | None = None) -> None:
        """See `Connection.disconnect`."""

    def statistics(self) -> ConnectionStatistics:
        """See `Connection.statistics`."""


class Connection:
    """An authenticated client, as handlers, hooks and observers get it."""

    __slots__ = ("__weakref__", "_backend", "_log", "_state")

    def __init__(self, backend: ConnectionBackend) -> None:
        self._backend = backend
        self._state: dict[str, Any] | None = None  # made when it is first used
        self._log: Any = None

    def __repr__(self) -> str:
        return f"<Connection {self.id} on {self.route.path}>"

    @property
    def id(self) -> str:
        """Identifies the connection; random."""
        return self._backend.id

    @property
    def application(self) -> Application:
        """The application that the route belongs to."""
        return self._backend.application

    @property
    def route(self) -> Route:
        """The route that the client connected to."""
        return self._backend.route

    @property
    def path_params(self) -> Mapping[str, str]:
        """The parameters of the route's path: ``{"room_id": "1"}`` for "/rooms/{room_id}"."""
        return self._backend.path_params

    @property
    def request(self) -> Request:
        """The request that opened the connection."""
        return self._backend.request

    @property
    def user(self) -> User:
        """The authenticated user; after a token refresh, with the new token's claims.

        Raises `RuntimeError` before the token has been verified, which only observers can see.
        """
        user = self._backend.user
        if user is None:
            raise RuntimeError("the client has not been authenticated yet")
        return user

    @property
    def state(self) -> dict[str, Any]:
        """A dictionary for the application's own data about this connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def log(self) -> Any:
        """A structlog logger with the connection's id, route and user bound."""
        if self._log is None:
            log = structlog.get_logger("trioserver").bind(
                connection_id=self.id, route=self.route.path
            )
            user = self._backend.user
            if user is None:
                return log  # not kept: the user is still to be bound
            self._log = log.bind(user=user.id[:MAX_USER])
        return self._log

    @log.setter
    def log(self, log: Any) -> None:
        self._log = log

    @property
    def login_session_id(self) -> str | None:
        """The path parameter that `Application.route` names as ``session_parameter``, or None."""
        return self._backend.login_session_id

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more. The WebSocket may still be closing."""
        return self._backend.has_ended

    @property
    def topics(self) -> frozenset[str]:
        """The topics that the client is subscribed to."""
        return frozenset(self._backend.topics)

    async def send(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message when the send queue has room for it: a slow client slows the sender down.

        ``fields`` are put beside ``type``, where deployed clients expect them. Put new data into
        ``data``.

        Raises `ConnectionEnded`, a `trio.ClosedResourceError`, if the connection has ended;
        `TypeError` or `ValueError` for data that JSON cannot express and for ``fields`` named type,
        id or data; `protocol.TooBigToSendError` for a message larger than the largest that can be
        sent. If cancelled, nothing is sent.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        frame = _encode(type, data, fields)
        await self._backend.wait_room(len(frame))
        self._check_open()
        self._backend.transmit_frame(frame)

    def send_nowait(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message without waiting.

        If the send queue is full, because the client has not read what is in it, the connection is
        closed with ``slow_consumer``. For more than a few messages use `send`. Raises as `send`.
        """
        self._check_open()
        self._backend.transmit_frame(_encode(type, data, fields))

    def publish(self, topic: str, data: Any) -> int:
        """Send ``data`` to all subscribers of ``topic``, including this client if it is one.

        Raises as `Application.publish`.
        """
        return self.application.publish(topic, data)

    def subscribe(self, topic: str) -> None:
        """Subscribe the client to ``topic``, without asking ``allow_subscribe``.

        Does nothing if it is subscribed already. Raises `protocol.Refusal` with
        ``too_many_in_flight`` beyond ``limits.max_subscriptions``.
        """
        self._backend.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """Remove the client's subscription to ``topic``, if there is one."""
        self._backend.unsubscribe(topic)

    def start_soon(self, async_function: Any, *args: Any) -> None:
        """Start a task that is cancelled when the connection ends.

        If it raises, the connection is closed with ``internal_error``; except for a
        `ConnectionEnded` of this connection, which is ignored. Raises `ConnectionEnded` if the
        connection has ended.
        """
        self._backend.start_soon(async_function, *args)

    def disconnect(self, code: str = "disconnected", message: str | None = None) -> None:
        """Close the connection with an error of `protocol.ERRORS`, or your own (close code 1008).

        Does nothing if it has ended already.
        """
        self._backend.disconnect(code, message)

    def statistics(self) -> ConnectionStatistics:
        """Return a snapshot of the connection's counters."""
        return self._backend.statistics()

    def _check_open(self) -> None:
        if self._backend.has_ended:
            raise ConnectionEnded(self._backend.id)


def _encode(type: str, data: Any, fields: Mapping[str, Any] | None) -> bytes:
    """Encode an application's message as a frame."""
    if fields:
        return encode_text(codec.encode(_with_fields(type, data, fields)))
    message = Message(type=type, data=UNSET if data is UNSET else raw(data))
    return encode_text(codec.encode(message))


def _with_fields(type: str, data: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Build a message with additional fields. Raises `ValueError` for the message's own names."""
    own = sorted(fields.keys() & {"type", "id", "data"})
    if own:
        raise ValueError(f"invalid fields {', '.join(own)}: type, id and data are not allowed")
    return {"type": type, **fields, **({} if data is UNSET else {"data": data})}
