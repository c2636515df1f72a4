"""`SimulatedClient`: one client of a load test, which has no task of its own.

When its socket is readable, `SimulatedClient.readable` is called, a plain function. It reports what
happened to a `ClientListener`, which measures and decides what the client does next.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Protocol

import trio

from protocol import codec
from protocol.errors import NORMAL_CLOSURE
from protocol.messages import Auth, Error, Pong, Subscribe
from trioserver.client.close_reason import CLOSED, CloseReason
from trioserver.load.network_errors import reason_from_error
from trioserver.load.requests import Requests
from trioserver.load.server_messages import DECODE_ERRORS, ServerMessage, decode, decode_error
from trioserver.load.transport import Transport
from trioserver.load.wire import (
    FrameReader,
    OpeningHandshake,
    UpgradeError,
    encode_masked,
    parse_close,
)
from trioserver.websocket.frames import Control, Violation
from trioserver.websocket.headers import Opcode

_SUBSCRIBE_ID: Final = 1
_REFRESH_ID: Final = 2
_NORMAL: Final = NORMAL_CLOSURE.to_bytes(2, "big")
_NO_CLOSE_FRAME: Final = 1006


class State(Enum):
    """State of a simulated client."""

    OPENING = auto()
    """The HTTP response to the upgrade is not complete yet."""
    AUTHENTICATING = auto()
    READY = auto()
    CLOSING = auto()
    """A Close frame was sent or received. The server ends the TCP connection."""
    CLOSED = auto()


class ClientListener(Protocol):
    """What a client reports its events to. All methods are plain functions."""

    def opened(self, client: SimulatedClient, now: float) -> None:
        """The client is READY."""

    def subscribed(self, client: SimulatedClient) -> None:
        """Its subscription was acknowledged."""

    def answered(self, client: SimulatedClient, dues: list[float], now: float) -> None:
        """Requests that were due at these times were answered."""

    def rejected(self, client: SimulatedClient, code: str, asked: bool, now: float) -> None:
        """It received an `error` that is not fatal; ``asked``: as the answer to a request."""

    def not_subscribed(self, client: SimulatedClient) -> None:
        """Its subscription was rejected; `rejected` is called as well."""

    def event(
        self, client: SimulatedClient, topic: str, offset: int, payload: bytes, now: float
    ) -> None:
        """It received an event; ``payload`` is the whole message."""

    def expiring(self, client: SimulatedClient) -> None:
        """Its token expires soon."""

    def refreshed(self, client: SimulatedClient, now: float) -> None:
        """Its new token was accepted."""

    def ended(self, client: SimulatedClient, reason: CloseReason) -> None:
        """Its connection was READY, and was ended by the server or the network."""

    def blocked(self, client: SimulatedClient) -> None:
        """`SimulatedClient.flush` must be called when its socket is writable."""


class SimulatedClient:
    """``number`` identifies the client's user. ``pending`` maps the id of each request without an
    answer to the time at which it was due."""

    __slots__ = (
        "_error", "_handshake", "_listener", "_reader", "close_reason", "last_offsets", "number",
        "opened_or_ended", "pending", "ready_at", "requests", "sent", "state", "token",
        "transport",
    )  # fmt: skip

    def __init__(self, number: int, listener: ClientListener, requests: Requests) -> None:
        self.number = number
        self.requests = requests
        self.state = State.CLOSED
        self.transport: Transport | None = None
        self.token: str | None = None
        self.sent = 0  # requests, of all its connections
        self.pending: dict[int | str, float] = {}
        self.last_offsets: dict[str, int] = {}  # by topic
        self.close_reason: CloseReason | None = None  # of the last connection
        self.opened_or_ended = trio.Event()
        self.ready_at = 0.0
        self._listener = listener
        self._reader = FrameReader()
        self._handshake: OpeningHandshake | None = None
        self._error: Error | None = None

    def __repr__(self) -> str:
        return f"<SimulatedClient {self.number} {self.state.name}>"  # never the token

    @property
    def received(self) -> int:
        """Bytes received on this connection."""
        return 0 if self.transport is None else self.transport.received

    # -------------------------------------------------------------------------- opening

    def begin(self, transport: Transport) -> None:
        """Reset the state for a new connection."""
        self.transport = transport
        self.state = State.OPENING
        self.opened_or_ended = trio.Event()
        self.close_reason = None
        self.pending.clear()
        self.last_offsets.clear()
        self._reader = FrameReader()
        self._error = None
        self._handshake = None

    def upgrade(self, handshake: OpeningHandshake) -> None:
        """Start the opening handshake. Raises `OSError`."""
        assert self.transport is not None
        self._handshake = handshake
        self.transport.send(handshake.request)

    def flush(self) -> None:
        """Send what waits: the socket is writable."""
        if self.transport is not None and not self.transport.closed:
            try:
                self.transport.flush()
            except OSError as error:
                self.fail(error)

    def readable(self, now: float) -> None:
        """Read from the socket, and process what has arrived."""
        transport = self.transport
        if transport is None or transport.closed:
            return
        try:
            data = transport.receive()
        except OSError as error:
            self.fail(error)
            return
        if data:
            self._receive(data, now)
        elif data is None:
            self._end(None)

    def _receive(self, data: bytes, now: float) -> None:
        if self._handshake is not None:
            rest = self._receive_response(self._handshake, data)
            if rest is None:
                return
            data = rest
        dues: list[float] = []
        pop = self.pending.pop
        for item in self._reader.receive(data):
            if type(item) is not bytes:
                self._receive_control(item)
                continue
            try:
                message = decode(item)
            except DECODE_ERRORS:
                text = "A message is not a JSON object with a type."
                self._finish(CloseReason.protocol_error(text))
                break
            kind = message.type
            if kind in ("ack", "pong", "end"):
                due = pop(message.id, None)  # type: ignore[arg-type] # no request has the id None
                if due is not None:
                    dues.append(due)
                elif message.id == _SUBSCRIBE_ID and kind == "ack":
                    self._listener.subscribed(self)
            elif kind == "event":
                self._listener.event(self, message.topic, message.offset, item, now)
            else:
                self._receive_other(message, item, now)
        if dues:
            self._listener.answered(self, dues, now)

    def _receive_response(self, handshake: OpeningHandshake, data: bytes) -> bytes | None:
        """The bytes after the HTTP response, or None if it is not complete or not 101."""
        try:
            rest = handshake.receive(data)
        except UpgradeError as error:
            self._finish(
                CloseReason.protocol_error("This is not a WebSocket server.")
                if error.status is None
                else CloseReason.from_http(error.status, error.retry_after)
            )
            return None
        if rest is not None:
            self._handshake = None
            self.state = State.AUTHENTICATING
            self.send(Auth(token=self.token))
        return rest

    def _receive_other(self, message: ServerMessage, text: bytes, now: float) -> None:
        match message.type:
            case "ready" if self.state is State.AUTHENTICATING:
                self.state = State.READY
                self.ready_at = now
                self._listener.opened(self, now)
                self.opened_or_ended.set()
            case "error":
                asked = message.id is not None and self.pending.pop(message.id, None) is not None
                if message.fatal:
                    self._error = decode_error(text)
                    return
                self._listener.rejected(self, message.code, asked, now)
                if message.id == _SUBSCRIBE_ID:
                    self._listener.not_subscribed(self)
            case "auth_expiring":
                self._listener.expiring(self)
            case "auth_refreshed":
                self._listener.refreshed(self, now)
            case "ping":
                self.send(Pong(id=message.id, data=message.data))

    def _receive_control(self, item: object) -> None:
        if isinstance(item, Violation):
            self._finish(CloseReason.protocol_error("A frame violates RFC 6455."))
        elif isinstance(item, Control) and item.opcode == Opcode.PING:
            self._send_frame(encode_masked(item.payload, Opcode.PONG))
        elif (
            isinstance(item, Control)
            and item.opcode == Opcode.CLOSE
            and self.state not in (State.CLOSING, State.CLOSED)
        ):
            self._end(item)
            self._send_frame(encode_masked(item.payload[:2], Opcode.CLOSE))

    # -------------------------------------------------------------------------- sending

    def send(self, message: object) -> None:
        """Send a message of the protocol. After the end it is dropped."""
        self._send_frame(encode_masked(codec.encode(message)))

    def subscribe(self, topic: str) -> None:
        """Subscribe to a topic."""
        self.send(Subscribe(topics=(topic,), id=_SUBSCRIBE_ID))

    def refresh(self, token: str) -> None:
        """Send a new token."""
        self.token = token
        self.send(Auth(token=token, id=_REFRESH_ID))

    def ask(self, due: float, count: int = 1) -> int:
        """Send ``count`` requests that are due at this time. Returns how many were sent."""
        transport = self.transport
        if self.state is not State.READY or transport is None or transport.full:
            return 0
        frames: list[bytes] = []
        for _ in range(count):
            id = self.requests.id_of(self.sent)
            if id in self.pending:  # all ids are in use
                break
            frames.append(self.requests.frame(self.number, self.sent, due))
            self.pending[id] = due
            self.sent += 1
        if frames:
            self._send_frame(frames[0] if len(frames) == 1 else b"".join(frames))
        return len(frames)

    def _send_frame(self, frame: bytes) -> None:
        transport = self.transport
        if transport is None or transport.closed:
            return
        try:
            transport.send(frame)
        except OSError as error:
            self.fail(error)

    # -------------------------------------------------------------------------- the end

    def leave(self) -> None:
        """Send a Close frame, if it is READY; does not wait for the server's."""
        if self.state is State.READY:
            self.state = State.CLOSING
            self._send_frame(encode_masked(_NORMAL, Opcode.CLOSE))

    def drop(self) -> None:
        """Close the connection without a Close frame."""
        self.state = State.CLOSED
        if self.transport is not None:
            self.transport.reset()
        self.close_reason = self.close_reason or CLOSED
        self.opened_or_ended.set()

    def fail(self, error: OSError) -> None:
        """End the connection because of a network or TLS error."""
        if self._error is not None:
            self._end(None)  # the server has given a reason
        elif self.state in (State.CLOSING, State.CLOSED):
            self.drop()
        else:
            self._finish(reason_from_error(error))

    def _end(self, close: Control | None) -> None:
        """End the connection because of a Close frame, or of the end of the stream."""
        if close is None and self.state in (State.CLOSING, State.CLOSED):
            self.drop()
            return
        code, text = (_NO_CLOSE_FRAME, "") if close is None else parse_close(close)
        if self._error is not None:
            reason = CloseReason.from_error(self._error, None if close is None else code)
        else:
            reason = CloseReason.from_close(code, text)
        if close is None:
            self._finish(reason)
        else:
            self._report(State.CLOSING, reason)  # the server ends the TCP connection

    def _finish(self, reason: CloseReason) -> None:
        if self.transport is not None:
            self.transport.reset()
        if self.state not in (State.CLOSING, State.CLOSED):
            self._report(State.CLOSED, reason)

    def _report(self, state: State, reason: CloseReason) -> None:
        before, self.state = self.state, state
        self.close_reason = reason
        if before is State.READY:
            self._listener.ended(self, reason)
        self.opened_or_ended.set()
