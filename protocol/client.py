"""The client's side of a session: text in, messages out, text to send, time as an argument.

The rules are the table in `protocol.states`. What the server must not do raises
`RemoteProtocolError`; what the caller must not do raises `LocalProtocolError`. Both carry a code
of `protocol.errors`, and the advice that stands there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, to_builtins

from protocol import codec
from protocol.errors import Refusal
from protocol.messages import (
    Ack,
    Auth,
    AuthRefreshed,
    Cancel,
    Chunk,
    ClientInfo,
    End,
    Error,
    HeartbeatMode,
    Hello,
    Id,
    Message,
    Ping,
    Pong,
    Publish,
    Ready,
    ServerMessage,
    Subscribe,
    Unsubscribe,
    raw,
)
from protocol.states import CLIENT_TABLE, ClientState, ClientTrigger

MAX_PENDING: Final = 4096
"""Requests without an answer that a session keeps track of."""


class LocalProtocolError(Exception):
    """The caller did what the protocol does not allow in this state; nothing was sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code


class RemoteProtocolError(Exception):
    """The server did what the protocol does not allow; close with 1002."""

    def __init__(self, message: str) -> None:
        super().__init__("protocol_error", message)
        self.code = "protocol_error"


_TRIGGERS: Final[dict[type, ClientTrigger]] = {
    Hello: ClientTrigger.HELLO,
    Ready: ClientTrigger.READY,
    Ping: ClientTrigger.HEARTBEAT,
    Pong: ClientTrigger.HEARTBEAT,
    Message: ClientTrigger.UNKNOWN,
}


class ClientProtocol:
    """One session. Feed it with `receive`, send what ``outgoing`` collects.

    ``last_received`` is the time of the last message, for noticing that the server has gone: with
    `ready` the server promises a sign of life each ``heartbeat.interval_ms``.
    """

    def __init__(self, now: float) -> None:
        self.state = ClientState.CONNECTED
        self.outgoing: list[bytes] = []
        self.ready: Ready | None = None
        self.failure: Error | None = None
        self.last_received = now
        self._ids = itertools.count(1)
        self._pending: dict[Id, int] = {}  # to the number of the next chunk

    # -------------------------------------------------------------------------- sending

    def authenticate(
        self,
        token: str | None,
        *,
        heartbeat: HeartbeatMode | None = None,
        client: ClientInfo | None = None,
        in_query: bool = False,
        initial: Mapping[str, Any] | None = None,
    ) -> Id | None:
        """Send `auth`; when READY that refreshes, and its id is returned.

        Without a ``heartbeat`` it is the route's. With ``in_query`` the token stands in the URL,
        and nothing is sent. The fields of ``initial`` go over those of `auth`: for a route's alias,
        or what else it wants to know.
        """
        refreshing = self.state is ClientState.READY
        self._transition(ClientTrigger.AUTHENTICATE)
        if in_query:
            return None
        id = self._new_id() if refreshing else None
        auth = Auth(token=token, id=id, heartbeat=heartbeat, client=client)
        self._send(auth if initial is None else to_builtins(auth) | dict(initial))
        return id

    def request(self, type: str, data: Any = UNSET) -> Id:
        """Send an application's message that wants an answer; the id of that answer is returned.

        Raises `LocalProtocolError`, also when `MAX_PENDING` requests have no answer yet.
        """
        return self._request(Message(type=type, id=self._next_id(), data=_optional(data)))

    def send(self, type: str, data: Any = UNSET) -> None:
        """Send an application's message that wants no answer."""
        self._transition(ClientTrigger.SEND)
        self._send(Message(type=type, data=_optional(data)))

    def subscribe(self, *topics: str) -> Id:
        """Ask for the events of topics; answered with `ack` or `error`."""
        return self._request(Subscribe(topics=topics, id=self._next_id()))

    def unsubscribe(self, *topics: str) -> Id:
        """Ask for no more events of topics; answered with `ack` or `error`."""
        return self._request(Unsubscribe(topics=topics, id=self._next_id()))

    def publish(self, topic: str, data: Any) -> Id:
        """Send data to a topic's subscribers; answered with `ack` or `error`."""
        return self._request(Publish(topic=topic, data=raw(data), id=self._next_id()))

    def ping(self) -> Id:
        """Ask for a `pong`."""
        return self._request(Ping(id=self._next_id()))

    def cancel(self, id: Id) -> None:
        """End a stream early; its `end` still comes. An id that awaits no answer is left be."""
        if id in self._pending:
            self._transition(ClientTrigger.SEND)
            self._send(Cancel(id=id))

    def forget(self, id: Id) -> None:
        """Await the answer to a request no longer; when it comes it is nobody's."""
        self._pending.pop(id, None)

    def _request(self, message: Any) -> Id:
        self._transition(ClientTrigger.SEND)
        id: Id = message.id
        self._pending[id] = 0
        self._send(message)
        return id

    def _next_id(self) -> Id:
        if len(self._pending) >= MAX_PENDING:
            raise LocalProtocolError("too_many_in_flight", "Too many requests without an answer.")
        return next(self._ids)

    def _new_id(self) -> Id:
        id = self._next_id()
        self._pending[id] = 0
        return id

    def _send(self, message: Any) -> None:
        self.outgoing.append(codec.encode(message))

    # -------------------------------------------------------------------------- receiving

    def receive(self, data: bytes, now: float) -> ServerMessage | Message | None:
        """A text message has arrived: what it says, or None where nothing needs to be known.

        When READY a `ping` is answered here, and returned too. Before that, a message of an
        unknown type is nobody's: a newer server may have more to say. Raises `RemoteProtocolError`.
        """
        self.last_received = now
        try:
            message = codec.decode_server(data)
        except Refusal as refusal:
            raise RemoteProtocolError(refusal.message) from None
        self._transition(self._trigger_of(message))
        match message:
            case Message() if self.state is not ClientState.READY:
                return None
            case Ping() if self.state is ClientState.READY:
                self._send(Pong(id=message.id, data=message.data))
            case Ready():
                self.ready = message
            case Error():
                return self._receive_error(message)
            case Chunk():
                return self._receive_chunk(message)
            case Ack() | End() | Pong() | AuthRefreshed():
                if message.id is not None:
                    self._pending.pop(message.id, None)
        return message

    def _trigger_of(self, message: ServerMessage | Message) -> ClientTrigger:
        if isinstance(message, Error):
            return ClientTrigger.FATAL if message.fatal else ClientTrigger.ERROR
        return _TRIGGERS.get(type(message), ClientTrigger.MESSAGE)

    def _receive_error(self, message: Error) -> Error:
        if message.fatal:
            self.failure = message
            self._pending.clear()
        elif message.id is not None:
            self._pending.pop(message.id, None)
        return message

    def _receive_chunk(self, message: Chunk) -> Chunk | None:
        expected = self._pending.get(message.id)
        if expected is None:
            return None
        if message.seq != expected:
            raise RemoteProtocolError(f"Chunk {message.seq} came in place of {expected}.")
        self._pending[message.id] = expected + 1
        return message

    def lost(self) -> None:
        """The connection has ended."""
        self.state = ClientState.CLOSED
        self._pending.clear()

    def _transition(self, trigger: ClientTrigger) -> None:
        outcome = CLIENT_TABLE[self.state, trigger]
        if isinstance(outcome, ClientState):
            self.state = outcome
        elif trigger in (ClientTrigger.AUTHENTICATE, ClientTrigger.SEND):
            raise LocalProtocolError(outcome, f"Cannot {trigger.value} when {self.state.value}.")
        else:
            raise RemoteProtocolError(f"Out of place when {self.state.value}: {trigger.value}.")


def _optional(data: Any) -> Any:
    return UNSET if data is UNSET else raw(data)
