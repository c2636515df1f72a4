"""The server's side of one connection: text in, messages out, text to send, time as an argument.

`ServerProtocol` decides what a message means at the moment it arrives, and nothing else: it does
not wait, verify tokens or call handlers. Its states are in the table of `protocol.states`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from protocol import codec
from protocol.codec import decode_envelope
from protocol.errors import ERRORS, NORMAL_CLOSURE, Fatal, close_code_of
from protocol.fields import HeartbeatMode, Id
from protocol.messages import (
    CLIENT_TYPES,
    RESERVED_TYPES,
    SERVER_TYPES,
    Auth,
    AuthExpiring,
    AuthRefreshed,
    Cancel,
    ClientMessage,
    Message,
    Ping,
    Pong,
    Ready,
)
from protocol.options import ProtocolOptions
from protocol.rate_limits import RateLimits
from protocol.refusals import Disconnect, Refusal
from protocol.states import SERVER_TABLE, Hold, ServerState, ServerTrigger
from protocol.structure import SHORT, weight
from protocol.times import instant, milliseconds

_READY: Final = frozenset({ServerState.READY, ServerState.REFRESHING})

MAX_HELD: Final = 32
"""Messages that may wait between `auth` and `ready`. With the size limit before READY this is at
most 512 KiB."""


@attrs.frozen
class Close:
    """How the connection ends: a WebSocket close code, and the error code as the reason."""

    code: int
    reason: str


class ServerProtocol:
    """The protocol state of one connection on the server.

    Call `receive` with each text message, send what it appends to ``outgoing``, and call `tick` at
    ``deadline``. After the end, ``close`` has the code and reason with which the WebSocket must be
    closed, after ``outgoing`` was sent. ``max_message_bytes`` is the limit in force; it is small
    before READY. ``is_ready`` is True while handlers may be called.

    ``now`` is in seconds, of any clock that never runs backwards. ``wall`` is in seconds since the
    Unix epoch.
    """

    __slots__ = (
        "_expires", "_held", "_rates", "auth", "auth_fields", "close", "deadline", "heartbeat",
        "in_flight", "is_ready", "max_message_bytes", "options", "outgoing", "state",
    )  # fmt: skip

    def __init__(self, options: ProtocolOptions, now: float) -> None:
        self.options = options
        self.state = ServerState.OPENING
        self.is_ready = False
        self.outgoing: list[bytes] = []
        self.close: Close | None = None
        self.heartbeat: HeartbeatMode = "frame"
        self.in_flight: dict[Id, None] = {}  # ordered; an empty set is three times as large
        self.auth: Auth | None = None
        self.auth_fields: Mapping[str, Any] = {}
        self.deadline: float | None = now + options.auth_timeout
        self.max_message_bytes = options.max_message_bytes_before_ready
        self._expires: tuple[float, float] | None = None  # (by `now`, by `wall`)
        self._held: list[bytes] = []
        self._rates = RateLimits(options, now)

    # -------------------------------------------------------------------------- authentication

    def start(self, *, token: str | None = None, heartbeat: str | None = None) -> None:
        """Send `hello`.

        With a token from the query string, that token is verified and no `auth` is expected.
        ``heartbeat`` is then used like that of an `auth`.
        """
        self.outgoing.append(codec.encode(self.options.hello))
        if token is None:
            self._transition(ServerTrigger.START)
        else:
            self._transition(ServerTrigger.START_VERIFYING)
            self.auth = Auth(token=token, heartbeat=heartbeat)

    def accept_auth(
        self,
        *,
        now: float,
        wall: float,
        connection_id: str,
        user: Mapping[str, Any],
        resource: Mapping[str, str],
        expires_at: float | None,
    ) -> None:
        """Send `ready`, after token and authorization were verified. Then call `receive_held`."""
        assert self.auth is not None, "accepted without credentials"
        self._transition(ServerTrigger.ACCEPT)
        options = self.options
        self.heartbeat = options.heartbeat_mode(self.auth.heartbeat)
        self.max_message_bytes = options.max_message_bytes
        self._expire_at(expires_at, now, wall)
        ready = Ready(
            connection_id=connection_id,
            user=dict(user),
            resource=dict(resource),
            expires_at=None if expires_at is None else instant(expires_at),
            server_time=instant(wall),
            heartbeat=options.heartbeat_info(self.heartbeat),
            limits=options.limits,
            id=self.auth.id,
        )
        self.outgoing.append(codec.encode(ready))
        self._forget_credentials()

    def receive_held(self, now: float) -> list[ClientMessage | Message]:
        """The messages that arrived between `auth` and `ready`, in order, as `receive` returns
        them."""
        held, self._held = self._held, []
        received = (self.receive(data, now) for data in held)
        return [message for message in received if message is not None]

    def accept_refresh(self, *, now: float, wall: float, expires_at: float | None) -> None:
        """Send `auth_refreshed`, after the new token was verified."""
        assert self.auth is not None, "refreshed without credentials"
        self._transition(ServerTrigger.ACCEPT)
        self._expire_at(expires_at, now, wall)
        left = None if expires_at is None else milliseconds(expires_at - wall)
        until = None if expires_at is None else instant(expires_at)
        refreshed = AuthRefreshed(expires_at=until, expires_in_ms=left, id=self.auth.id)
        self.outgoing.append(codec.encode(refreshed))
        self._forget_credentials()

    def reject_refresh(self, refusal: Refusal, now: float) -> None:
        """Answer that the new token could not be verified; the old one is used until it expires."""
        assert self.auth is not None, "rejected without credentials"
        self._transition(ServerTrigger.REJECT_REFRESH)
        self.refuse(refusal, now, id=self.auth.id)
        self._forget_credentials()

    # -------------------------------------------------------------------------- messages

    def charge(self, count: int, size: int, now: float) -> bool:
        """Charge ``count`` messages of ``size`` bytes in all to the rate limits, if they allow it.

        Returns whether they were charged. If so, pass ``charged=True`` to `receive` for each of
        them. Otherwise `receive` charges them one by one.
        """
        return self.is_ready and self._rates.charge(count, size, now)

    def receive(
        self, data: bytes, now: float, *, charged: bool = False
    ) -> ClientMessage | Message | None:
        """Process a text message. Returns the message that the caller must handle, or None.

        `Auth` asks for a verification: answer it with `accept_auth` or `fail`, and when READY with
        `accept_refresh`, `reject_refresh` or `fail`. Errors are appended to ``outgoing``, and may
        have ended the connection.
        """
        ready = self.is_ready
        if not ready:
            if self.state is ServerState.CLOSED:
                return None
            if self.state is ServerState.VERIFYING:
                self._hold(data)
                return None
        size = len(data)
        if size > self.max_message_bytes:
            self.fail(Refusal("message_too_big"))
            return None
        # Rate limits come before decoding, so that rejected and invalid messages are charged too.
        if ready:
            rates = self._rates
            cost = size if size <= SHORT else min(weight(data), rates.bytes.burst)
            if charged:
                within = cost == size or rates.bytes.take(now, cost - size)
            else:
                within = rates.messages.take(now) and rates.bytes.take(now, cost)
            if not within:
                self._refuse_rate(data, cost, now)
                return None
        try:
            envelope = decode_envelope(data)
        except Refusal as refusal:
            self.refuse(refusal, now)
            return None
        if ready and envelope.type not in RESERVED_TYPES and envelope.id not in self.in_flight:
            return envelope  # the usual case: it does not change the state
        try:
            return self._receive_special(data, envelope, now)
        except Refusal as refusal:
            self.refuse(refusal, now, id=envelope.id)
            return None

    def _receive_special(
        self, data: bytes, envelope: Message, now: float
    ) -> ClientMessage | Message | None:
        """Process a message before READY, of a reserved type, or with an id that is in use."""
        waiting = self.state is ServerState.WAITING
        if envelope.type == "auth" or (waiting and envelope.type in self.options.auth_aliases):
            return self._receive_auth(data, envelope, now)
        outcome = self._transition(ServerTrigger.MESSAGE)
        if isinstance(outcome, str):
            self.fail(Refusal(outcome), id=envelope.id)
            return None
        if envelope.type in CLIENT_TYPES:
            message = codec.decode_client(data, envelope)
            if not isinstance(message, Ping | Pong | Cancel):
                self._check_id(message.id)
            return message
        if envelope.type in SERVER_TYPES:
            raise Refusal("unknown_type", f"Only servers send '{envelope.type}'.")
        self._check_id(envelope.id)
        return envelope

    def _receive_auth(self, data: bytes, envelope: Message, now: float) -> Auth | None:
        first = self.state is ServerState.WAITING
        limit = self.options.max_message_bytes_before_ready
        if len(data) > limit:  # all of its fields are decoded, including unknown ones
            raise Refusal("invalid_payload", f"An 'auth' message may have at most {limit} bytes.")
        if envelope.type == "auth":
            message = codec.decode_client(data, envelope)
            assert isinstance(message, Auth)
        else:
            message = codec.decode_auth_alias(data)
        outcome = self._transition(ServerTrigger.AUTH)
        if isinstance(outcome, str):
            raise Refusal(outcome, "Another 'auth' is being verified.")
        self.auth = message
        self.auth_fields = codec.decode_fields(data)
        if not first and message.id is not None and message.id in self.in_flight:
            self.reject_refresh(Refusal("duplicate_id"), now)
            return None
        return message

    def _hold(self, data: bytes) -> None:
        """Keep a message until READY, because handlers must not be called before."""
        if len(data) > self.max_message_bytes:
            self.fail(Refusal("message_too_big"))
        elif len(self._held) >= MAX_HELD:
            self.fail(Refusal("auth_required", "Too many messages before 'ready'."))
        else:
            self._held.append(data)

    def _refuse_rate(self, data: bytes, cost: float, now: float) -> None:
        """Answer a message above a rate limit; end the connection if that happened too often."""
        refusal = Refusal("rate_limited", retry_after=self._rates.seconds_until(cost))
        try:
            id = decode_envelope(data).id
        except Refusal:
            id = None
        if self._rates.strike(cost, now):
            self.outgoing.append(codec.encode_error(refusal, id, fatal=False))
        else:
            self.fail(refusal, id=id)

    def _check_id(self, id: Id | None) -> None:
        if id is not None and id in self.in_flight:
            raise Refusal("duplicate_id")

    def begin(self, id: Id | None) -> None:
        """Record a request that will be answered later.

        Raises `Refusal` with ``too_many_in_flight``.
        """
        if id is not None:
            if len(self.in_flight) >= self.options.max_in_flight:
                raise Refusal("too_many_in_flight")
            self.in_flight[id] = None

    def finish(self, id: Id | None) -> None:
        """Forget a request that has been answered, or will never be."""
        if id is not None:
            self.in_flight.pop(id, None)

    def pong(self, ping: Ping, wall: float) -> bytes:
        """Encode the answer to a `ping`, for the caller to send."""
        return codec.encode(Pong(id=ping.id, data=ping.data, timestamp=instant(wall)))

    # -------------------------------------------------------------------------- the end

    def refuse(self, refusal: Refusal, now: float, id: Id | None = None) -> None:
        """Answer with an error.

        This ends the connection before READY, if the code or the exception is fatal, and if the
        client has caused too many errors.
        """
        if not self.is_ready:
            if refusal.code == "invalid_payload":
                refusal = Refusal("bad_message", refusal.message)
            self.fail(refusal, id=id)
            return
        row = ERRORS.get(refusal.code)
        fatal = row is not None and row.fatal is Fatal.ALWAYS
        if fatal or isinstance(refusal, Disconnect):
            self.fail(refusal, id=id)
            return
        self.outgoing.append(codec.encode_error(refusal, id, fatal=False))
        if refusal.is_clients_fault and not self._rates.allow_error(now):
            self.fail(Refusal("too_many_errors"))

    def fail(self, refusal: Refusal, id: Id | None = None) -> None:
        """End the connection with a fatal error and the close code of its row in `ERRORS`."""
        if self.state is ServerState.CLOSED:
            return
        self.outgoing.append(codec.encode_error(refusal, id, fatal=True))
        self._end(Close(close_code_of(refusal.code), refusal.code))

    def end(self) -> None:
        """End the connection with a normal closure."""
        if self.state is not ServerState.CLOSED:
            self._end(Close(NORMAL_CLOSURE, ""))

    def _end(self, close: Close) -> None:
        self._transition(ServerTrigger.FAIL)
        self.close = close
        self.deadline = None
        self._held.clear()
        self._forget_credentials()

    # -------------------------------------------------------------------------- time

    def tick(self, now: float, wall: float) -> None:
        """At ``deadline``: warn that the token expires, or end the connection."""
        if self.deadline is None or now < self.deadline:
            return
        if self._expires is not None and now < self._expires[0]:
            self.deadline = self._expires[0]
            until = self._expires[1]
            expiring = AuthExpiring(
                expires_at=instant(until), expires_in_ms=milliseconds(until - wall)
            )
            self.outgoing.append(codec.encode(expiring))
            return
        outcome = self._transition(ServerTrigger.DEADLINE)
        if isinstance(outcome, str):
            self.fail(Refusal(outcome))

    def _expire_at(self, expires_at: float | None, now: float, wall: float) -> None:
        """Warn ``expiry_warning`` before the expiry, or halfway if the token expires sooner."""
        if expires_at is None:
            self._expires = self.deadline = None
            return
        left = expires_at - wall
        self._expires = (now + left, expires_at)
        self.deadline = now + left - min(self.options.expiry_warning, left / 2)

    def _transition(self, trigger: ServerTrigger) -> ServerState | Hold | str:
        outcome = SERVER_TABLE[self.state, trigger]
        if isinstance(outcome, ServerState):
            self.state = outcome
            self.is_ready = outcome in _READY
        return outcome

    def _forget_credentials(self) -> None:
        self.auth = None
        self.auth_fields = {}
