"""One simulated client: from the opening handshake to its end, without a task of its own.

What its socket receives comes to `Client.readable`, a plain function. What is measured, and what
is to be done next, is the crowd's business.
"""

from __future__ import annotations

import errno
import ssl
from enum import Enum, auto
from typing import Final, Protocol

import msgspec
import trio
from msgspec import Raw

from protocol import codec
from protocol.errors import NORMAL_CLOSURE
from protocol.messages import Auth, Error, Pong, Subscribe
from trioserver.client.close_reason import CLOSED, CloseReason
from trioserver.client.network import reason_from_alert
from trioserver.load.requests import Requests
from trioserver.load.transport import Transport
from trioserver.load.wire import NotUpgraded, Reader, Upgrade, close_code, encode_masked
from trioserver.websocket.frames import Control, Violation
from trioserver.websocket.headers import Opcode

_SUBSCRIBE_ID: Final = 1
_REFRESH_ID: Final = 2
_NORMAL: Final = NORMAL_CLOSURE.to_bytes(2, "big")

_NETWORK: Final = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "connect_timeout",
    errno.EADDRNOTAVAIL: "no_free_port",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}
_HERE: Final = ("no_free_port", "too_many_open_files")
"""What this machine lacks; trying again does not bring it."""


class State(Enum):
    """Where a client is."""

    OPENING = auto()
    """No answer to the upgrade yet."""
    AUTHENTICATING = auto()
    READY = auto()
    CLOSING = auto()
    """A Close frame has gone one way or the other; the server is to end the connection."""
    CLOSED = auto()


class _Head(msgspec.Struct):
    """What a client looks at in a message; the rest is not even decoded."""

    type: str
    id: int | str | None = None
    code: str = ""
    fatal: bool = False
    topic: str = ""
    offset: int = 0
    data: Raw = Raw(b"null")


_decode: Final = msgspec.json.Decoder(_Head).decode


class Crowd(Protocol):
    """Whom a client tells what happens to it. All of these are plain functions."""

    def opened(self, client: Client, now: float) -> None:
        """It is READY."""

    def subscribed(self, client: Client) -> None:
        """Its subscription was acknowledged."""

    def answered(self, client: Client, dues: list[float], now: float) -> None:
        """Requests that were due at these instants have their answers."""

    def refused(self, client: Client, code: str, asked: bool, now: float) -> None:
        """An `error` came that does not end the connection; ``asked``: in answer to a request."""

    def not_subscribed(self, client: Client) -> None:
        """Its subscription was refused; `refused` is called as well."""

    def event(self, client: Client, topic: str, offset: int, payload: bytes, now: float) -> None:
        """An event came; ``payload`` is the whole message."""

    def expiring(self, client: Client) -> None:
        """Its token ends soon."""

    def refreshed(self, client: Client, now: float) -> None:
        """The new token was accepted."""

    def ended(self, client: Client, reason: CloseReason) -> None:
        """The connection is over; it was not ended by this program."""

    def blocked(self, client: Client) -> None:
        """`Client.flush` is to be called when its socket can be written."""


class Client:
    """``number`` stands for the client's user. ``pending`` has when each request was due, by id."""

    __slots__ = (
        "_crowd", "_error", "_reader", "_upgrade", "came", "heard", "number",
        "pending", "ready_at", "requests", "sent", "settled", "state", "token", "transport",
    )  # fmt: skip

    def __init__(self, number: int, crowd: Crowd, requests: Requests) -> None:
        self.number = number
        self.requests = requests
        self.state = State.CLOSED
        self.transport: Transport | None = None
        self.token: str | None = None
        self.sent = 0  # requests, of all its connections
        self.pending: dict[int | str, float] = {}
        self.heard: dict[str, int] = {}  # the offset of each topic's last event
        self.came: CloseReason | None = None  # why the last connection ended
        self.settled = trio.Event()  # set when READY, or over
        self.ready_at = 0.0
        self._crowd = crowd
        self._reader = Reader()
        self._upgrade: Upgrade | None = None
        self._error: Error | None = None

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.state.name}>"  # never the token

    @property
    def received(self) -> int:
        """Bytes, on this connection."""
        return 0 if self.transport is None else self.transport.received

    # -------------------------------------------------------------------------- opening

    def begin(self, transport: Transport) -> None:
        """Start anew on a connection that has just been made."""
        self.transport = transport
        self.state = State.OPENING
        self.settled = trio.Event()
        self.came = None
        self.pending.clear()
        self.heard.clear()
        self._reader = Reader()
        self._error = None
        self._upgrade = None

    def upgrade(self, upgrade: Upgrade) -> None:
        """Begin the opening handshake. Raises `OSError`."""
        assert self.transport is not None
        self._upgrade = upgrade
        self.transport.send(upgrade.request)

    def flush(self) -> None:
        """The socket can be written again."""
        if self.transport is not None and not self.transport.closed:
            try:
                self.transport.flush()
            except OSError as error:
                self.fail(error)

    def readable(self, now: float) -> None:
        """The socket can be read, or is over."""
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
        if self._upgrade is not None:
            try:
                rest = self._upgrade.receive(data)
            except NotUpgraded as refused:
                self._finish(
                    CloseReason.protocol_error("This is not a WebSocket server.")
                    if refused.status is None
                    else CloseReason.from_http(refused.status, refused.retry_after)
                )
                return
            if rest is None:
                return
            self._upgrade = None
            self.state = State.AUTHENTICATING
            self.send(Auth(token=self.token))
            data = rest
        dues: list[float] = []
        pop = self.pending.pop
        for item in self._reader.receive(data):
            if type(item) is not bytes:
                self._unusual(item)
                continue
            try:
                head = _decode(item)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._finish(
                    CloseReason.protocol_error("A message was no JSON object with a type.")
                )
                break
            kind = head.type
            if kind in ("ack", "pong", "end"):
                due = pop(head.id, None)  # type: ignore[arg-type] # None is nobody's id
                if due is not None:
                    dues.append(due)
                elif head.id == _SUBSCRIBE_ID and kind == "ack":
                    self._crowd.subscribed(self)
            elif kind == "event":
                self._crowd.event(self, head.topic, head.offset, item, now)
            else:
                self._receive_other(head, item, now)
        if dues:
            self._crowd.answered(self, dues, now)

    def _receive_other(self, head: _Head, message: bytes, now: float) -> None:
        match head.type:
            case "ready" if self.state is State.AUTHENTICATING:
                self.state = State.READY
                self.ready_at = now
                self._crowd.opened(self, now)
                self.settled.set()
            case "error":
                asked = head.id is not None and self.pending.pop(head.id, None) is not None
                if head.fatal:
                    self._error = _as_error(message)
                    return
                self._crowd.refused(self, head.code, asked, now)
                if head.id == _SUBSCRIBE_ID:
                    self._crowd.not_subscribed(self)
            case "auth_expiring":
                self._crowd.expiring(self)
            case "auth_refreshed":
                self._crowd.refreshed(self, now)
            case "ping":
                self.send(Pong(id=head.id, data=head.data))

    def _unusual(self, item: object) -> None:
        if isinstance(item, Violation):
            self._finish(CloseReason.protocol_error("A frame violated RFC 6455."))
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
        """Send a message of the protocol. At the end of the connection nothing is."""
        self._send_frame(encode_masked(codec.encode(message)))

    def subscribe(self, topic: str) -> None:
        """Ask for a topic's events."""
        self.send(Subscribe(topics=(topic,), id=_SUBSCRIBE_ID))

    def refresh(self, token: str) -> None:
        """Send a fresh token."""
        self.token = token
        self.send(Auth(token=token, id=_REFRESH_ID))

    def ask(self, due: float, count: int = 1) -> int:
        """Send requests that are due at this instant. Gives how many were sent."""
        transport = self.transport
        if self.state is not State.READY or transport is None or transport.full:
            return 0
        frames: list[bytes] = []
        for _ in range(count):
            id = self.requests.id_of(self.sent)
            if id in self.pending:  # as many as there are ids have no answer
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
        """Close normally; the server's part is not waited for here."""
        if self.state is State.READY:
            self.state = State.CLOSING
            self._send_frame(encode_masked(_NORMAL, Opcode.CLOSE))

    def drop(self) -> None:
        """End the connection without a word."""
        self.state = State.CLOSED
        if self.transport is not None:
            self.transport.reset()
        self.came = self.came or CLOSED
        self.settled.set()

    def fail(self, error: OSError) -> None:
        """The network, or TLS, has ended it."""
        if self._error is not None:
            self._end(None)  # the server had said why
        elif self.state in (State.CLOSING, State.CLOSED):
            self.drop()
        else:
            self._finish(reason_of(error))

    def _end(self, close: Control | None) -> None:
        """By a Close frame, or by the end of the stream."""
        if close is None and self.state in (State.CLOSING, State.CLOSED):
            self.drop()
            return
        code, text = (1006, "") if close is None else close_code(close)
        if self._error is not None:
            reason = CloseReason.from_error(self._error, None if close is None else code)
        else:
            reason = CloseReason.from_close(code, text)
        if close is None:
            self._finish(reason)
        else:
            self._tell(State.CLOSING, reason)  # the server ends the connection

    def _finish(self, reason: CloseReason) -> None:
        if self.transport is not None:
            self.transport.reset()
        if self.state not in (State.CLOSING, State.CLOSED):
            self._tell(State.CLOSED, reason)

    def _tell(self, state: State, reason: CloseReason) -> None:
        before, self.state = self.state, state
        self.came = reason
        if before is State.READY:
            self._crowd.ended(self, reason)
        self.settled.set()


def _as_error(message: bytes) -> Error | None:
    try:
        return msgspec.json.decode(message, type=Error)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def reason_of(error: OSError) -> CloseReason:
    """Why the network let a client down, under a code of its own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CloseReason.local(
            "The server's certificate is not trusted.", "certificate_invalid", "never"
        )
    if isinstance(error, ssl.SSLError):
        return reason_from_alert(error) or CloseReason.local("TLS failed.", "tls_failed")
    code = _NETWORK.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, "os_error")
    return CloseReason.local("The network.", code.lower(), "never" if code in _HERE else "backoff")
