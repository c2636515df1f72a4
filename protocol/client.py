"""The client's side of one connection: text in, messages out, text to send, time as an argument.

The states are in the table of `protocol.states`. A violation by the server raises
`RemoteProtocolError`, one by the caller `LocalProtocolError`. Both have a code of
`protocol.errors`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET, to_builtins

from protocol import codec
from protocol.fields import HeartbeatMode, Id, raw
from protocol.messages import (
    Ack,
    Auth,
    AuthRefreshed,
    Cancel,
    Chunk,
    ClientInfo,
    End,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
    Publish,
    Ready,
    ServerMessage,
    Subscribe,
    Unsubscribe,
)
from protocol.refusals import Refusal
from protocol.states import CLIENT_TABLE, ClientState, ClientTrigger

MAX_PENDING: Final = 4096
"""Requests without an answer that are tracked at most."""


class LocalProtocolError(Exception):
    """The caller violated the protocol. Nothing was sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code


class RemoteProtocolError(Exception):
    """The server violated the protocol. Close the connection with 1002."""

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
    """The protocol state of one connection on the client.

    Call `receive` with each text message, and send what is appended to ``outgoing``.
    ``last_received`` is the time of the last message. In `ready` the server promises to send
    something every ``heartbeat.interval_ms``, so a longer silence means that it has gone.
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
        """Send `auth`. When READY this refreshes the token, and the id of the `auth` is returned.

        Without ``heartbeat`` the route's setting is used. With ``in_query`` the token is in the
        URL, and nothing is sent. The fields of ``initial`` replace or extend those of `auth`, for
        routes with an alias or with fields of their own.
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
        """Send an application's message that needs an answer. Returns its id.

        Raises `LocalProtocolError`, also if `MAX_PENDING` requests have no answer yet.
        """
        return self._request(Message(type=type, id=self._next_id(), data=_optional(data)))

    def send(self, type: str, data: Any = UNSET) -> None:
        """Send an application's message that needs no answer."""
        self._transition(ClientTrigger.SEND)
        self._send(Message(type=type, data=_optional(data)))

    def subscribe(self, *topics: str) -> Id:
        """Subscribe to topics; answered with `ack` or `error`."""
        return self._request(Subscribe(topics=topics, id=self._next_id()))

    def unsubscribe(self, *topics: str) -> Id:
        """Unsubscribe from topics; answered with `ack` or `error`."""
        return self._request(Unsubscribe(topics=topics, id=self._next_id()))

    def publish(self, topic: str, data: Any) -> Id:
        """Publish an event; answered with `ack` or `error`."""
        return self._request(Publish(topic=topic, data=raw(data), id=self._next_id()))

    def ping(self) -> Id:
        """Request a `pong`."""
        return self._request(Ping(id=self._next_id()))

    def cancel(self, id: Id) -> None:
        """End a stream early. Its `end` still arrives. An id that is not pending is ignored."""
        if id in self._pending:
            self._transition(ClientTrigger.SEND)
            self._send(Cancel(id=id))

    def forget(self, id: Id) -> None:
        """Stop tracking a request."""
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
        """Process a text message. Returns the message, or None if the caller need not handle it.

        When READY a `ping` is answered here, and returned too. Before READY a message of an unknown
        type is ignored, because the server may be newer. Raises `RemoteProtocolError`.
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
        """Record that the connection has ended."""
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
