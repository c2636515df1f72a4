"""The server's side of a session: text in, messages out, text to send, time as an argument.

`ServerProtocol` decides what a message means at the moment it arrives, and nothing else: it does
not wait, verify, or run anything. The rules are the table in `protocol.states`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import attrs
from msgspec import structs

from protocol import codec
from protocol.bucket import TokenBucket
from protocol.codec import decode_envelope
from protocol.errors import (
    ERRORS,
    NORMAL_CLOSURE,
    Disconnect,
    Fatal,
    Refusal,
    close_code_of,
)
from protocol.messages import (
    CLIENT_TYPES,
    HEARTBEAT_MODES,
    RESERVED_TYPES,
    SERVER_TYPES,
    SUBPROTOCOL,
    Auth,
    AuthExpiring,
    AuthRefreshed,
    Cancel,
    ClientMessage,
    Error,
    HeartbeatInfo,
    HeartbeatMode,
    Hello,
    Id,
    Message,
    Ping,
    Pong,
    Ready,
    instant,
    milliseconds,
)
from protocol.options import ProtocolOptions
from protocol.states import SERVER_TABLE, Hold, ServerState, ServerTrigger
from protocol.structure import SHORT, weight

_READY: Final = frozenset({ServerState.READY, ServerState.REFRESHING})

MAX_HELD: Final = 32
"""Messages that may wait behind `auth`; together with the limit before READY, half a MiB."""

ERROR_BURST: Final = 64
ERRORS_PER_SECOND: Final = 1.0
"""A client that is wrong more often than this, for longer than the burst, is broken. Errors that
are not the client's fault do not count."""

_MAX_ERROR_TEXT: Final = 1000
"""Characters of an error's message. Some quote what was sent, and that may be as large as any
message."""


BYTES_FORGIVEN: Final = 1000.0
"""Bytes that were too many are forgiven at this fraction of the rate at which bytes are taken."""


@attrs.frozen
class Close:
    """How the session ended: a WebSocket close code, and the error code as the reason."""

    code: int
    reason: str


class ServerProtocol:
    """One session. Feed it with `receive`, ask `deadline`, send what `outgoing` collects.

    After the end, ``close`` says with which code and reason to close the WebSocket; what stands in
    ``outgoing`` goes before that. ``max_message_bytes`` is the limit in force, small before READY.
    ``is_ready`` says whether the application may see it.
    ``now`` is in seconds, of any clock that never runs backwards;
    ``wall`` is in seconds since the Unix epoch.
    """

    __slots__ = (
        "_byte_strikes", "_bytes", "_errors", "_expires", "_held", "_messages", "_strikes", "auth",
        "auth_fields", "close", "deadline", "heartbeat", "in_flight", "is_ready",
        "max_message_bytes", "options", "outgoing", "state",
    )  # fmt: skip

    def __init__(self, options: ProtocolOptions, now: float) -> None:
        self.options = options
        self.state = ServerState.OPENING
        self.is_ready = False
        self.outgoing: list[bytes] = []
        self.close: Close | None = None
        self.heartbeat: HeartbeatMode = "frame"
        self.in_flight: dict[Id, None] = {}  # in order; an empty set is three times as large
        self.auth: Auth | None = None
        self.auth_fields: Mapping[str, Any] = {}
        self.deadline: float | None = now + options.auth_timeout
        self.max_message_bytes = options.max_message_bytes_before_ready
        self._expires: tuple[float, float] | None = None  # (by `now`, by `wall`)
        self._held: list[bytes] = []
        rate = float(options.messages_per_second)
        self._messages = TokenBucket(rate, 2 * rate, now)
        self._strikes = TokenBucket(1.0, 2 * rate, now)
        rate = float(options.bytes_per_second)
        burst = max(2 * rate, float(options.max_message_bytes))
        self._bytes = TokenBucket(rate, burst, now)
        self._byte_strikes = TokenBucket(rate / BYTES_FORGIVEN, burst, now)
        self._errors = TokenBucket(ERRORS_PER_SECOND, ERROR_BURST, now)

    # -------------------------------------------------------------------------- opening

    def start(self, *, token: str | None = None, heartbeat: str | None = None) -> None:
        """Greet. With a token from the query string, that is verified and no `auth` awaited.

        ``heartbeat`` then says what that of an `auth` would.
        """
        hello = Hello(
            protocol=SUBPROTOCOL,
            auth_timeout_ms=milliseconds(self.options.auth_timeout),
            message=self.options.greeting,
        )
        self.outgoing.append(codec.encode(hello))
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
        """Token and ownership are good: say `ready`. Then ask `receive_held`."""
        assert self.auth is not None, "admitted without credentials"
        self._transition(ServerTrigger.ACCEPT)
        options = self.options
        asked = self.auth.heartbeat
        self.heartbeat = next((m for m in HEARTBEAT_MODES if m == asked), options.heartbeat)
        self.max_message_bytes = options.max_message_bytes
        self._expire_at(expires_at, now, wall)
        ready = Ready(
            connection_id=connection_id,
            user=dict(user),
            resource=dict(resource),
            expires_at=None if expires_at is None else instant(expires_at),
            server_time=instant(wall),
            heartbeat=HeartbeatInfo(
                mode=self.heartbeat,
                interval_ms=milliseconds(options.heartbeat_interval),
                timeout_ms=milliseconds(options.heartbeat_timeout),
            ),
            limits=options.limits,
            id=self.auth.id,
        )
        self.outgoing.append(codec.encode(ready))
        self._forget_credentials()

    def receive_held(self, now: float) -> list[ClientMessage | Message]:
        """What arrived between `auth` and `ready`, in order, as `receive` would give it."""
        held, self._held = self._held, []
        received = (self.receive(data, now) for data in held)
        return [message for message in received if message is not None]

    def accept_refresh(self, *, now: float, wall: float, expires_at: float | None) -> None:
        """The new token is good."""
        assert self.auth is not None, "refreshed without credentials"
        self._transition(ServerTrigger.ACCEPT)
        self._expire_at(expires_at, now, wall)
        left = None if expires_at is None else milliseconds(expires_at - wall)
        until = None if expires_at is None else instant(expires_at)
        refreshed = AuthRefreshed(expires_at=until, expires_in_ms=left, id=self.auth.id)
        self.outgoing.append(codec.encode(refreshed))
        self._forget_credentials()

    def reject_refresh(self, refusal: Refusal, now: float) -> None:
        """The new token could not be verified now; the old one counts until it expires."""
        assert self.auth is not None, "kept without credentials"
        self._transition(ServerTrigger.REJECT_REFRESH)
        self.refuse(refusal, now, id=self.auth.id)
        self._forget_credentials()

    # -------------------------------------------------------------------------- running

    def charge(self, count: int, size: int, now: float) -> bool:
        """Charge ``count`` messages of ``size`` bytes in all to the rates, if neither is exceeded.

        Returns whether they were charged, which `receive` is to be told; else it charges each.
        """
        if not self.is_ready or not self._messages.take(now, count):
            return False
        if self._bytes.take(now, size):
            return True
        self._messages.give_back(count)
        return False

    def receive(
        self, data: bytes, now: float, *, charged: bool = False
    ) -> ClientMessage | Message | None:
        """A text message has arrived: what to do about it, or None when that has been done.

        `Auth` asks for a verification: answer it with `accept_auth` or `fail`, and when READY with
        `accept_refresh`, `reject_refresh` or `fail`. Errors have gone to ``outgoing``, and may have
        ended the connection.
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
        # The rates come first: what is beyond them, or no good, costs its sender all the same.
        if ready:
            counts_as = size if size <= SHORT else min(weight(data), self._bytes.burst)
            if charged:
                within = counts_as == size or self._bytes.take(now, counts_as - size)
            else:
                within = self._messages.take(now) and self._bytes.take(now, counts_as)
            if not within:
                self._too_fast(data, counts_as, now)
                return None
        try:
            envelope = decode_envelope(data)
        except Refusal as refusal:
            self.refuse(refusal, now)
            return None
        if ready and envelope.type not in RESERVED_TYPES and envelope.id not in self.in_flight:
            return envelope  # nearly always: it moves nothing in the table
        try:
            return self._receive_special(data, envelope, now)
        except Refusal as refusal:
            self.refuse(refusal, now, id=envelope.id)
            return None

    def _receive_special(
        self, data: bytes, envelope: Message, now: float
    ) -> ClientMessage | Message | None:
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
            raise Refusal("unknown_type", f"'{envelope.type}' is for servers to send.")
        self._check_id(envelope.id)
        return envelope

    def _receive_auth(self, data: bytes, envelope: Message, now: float) -> Auth | None:
        first = self.state is ServerState.WAITING
        most = self.options.max_message_bytes_before_ready
        if len(data) > most:  # all of its fields are read, known or not
            raise Refusal("invalid_payload", f"An `auth` may have {most} bytes.")
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

    def _check_id(self, id: Id | None) -> None:
        if id is not None and id in self.in_flight:
            raise Refusal("duplicate_id")

    def begin(self, id: Id | None) -> None:
        """A request is going to be answered later. Raises `Refusal` with ``too_many_in_flight``."""
        if id is not None:
            if len(self.in_flight) >= self.options.max_in_flight:
                raise Refusal("too_many_in_flight")
            self.in_flight[id] = None

    def finish(self, id: Id | None) -> None:
        """The request has been answered, or will never be."""
        if id is not None:
            self.in_flight.pop(id, None)

    def pong(self, ping: Ping, wall: float) -> bytes:
        """The answer to a `ping`, for the caller to send."""
        return codec.encode(Pong(id=ping.id, data=ping.data, timestamp=instant(wall)))

    # -------------------------------------------------------------------------- ending

    def refuse(self, refusal: Refusal, now: float, id: Id | None = None) -> None:
        """Answer with an error; before READY, and when the client's own errors go on, that ends the
        session."""
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
        self.outgoing.append(codec.encode(_error(refusal, id, fatal=False)))
        if refusal.is_clients_fault and not self._errors.take(now):
            self.fail(Refusal("too_many_errors"))

    def fail(self, refusal: Refusal, id: Id | None = None) -> None:
        """End the session: a fatal error, then the close code of the table."""
        if self.state is ServerState.CLOSED:
            return
        self.outgoing.append(codec.encode(_error(refusal, id, fatal=True)))
        self._end(Close(close_code_of(refusal.code), refusal.code))

    def end(self) -> None:
        """End the session with a normal closure: nothing went wrong."""
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
        """The time has come that ``deadline`` named: warn, or end the session."""
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
        """Warn ``expiry_warning`` ahead; a token that ends sooner is warned of halfway."""
        if expires_at is None:
            self._expires = self.deadline = None
            return
        left = expires_at - wall
        self._expires = (now + left, expires_at)
        self.deadline = now + left - min(self.options.expiry_warning, left / 2)

    # -------------------------------------------------------------------------- details

    def _transition(self, trigger: ServerTrigger) -> ServerState | Hold | str:
        outcome = SERVER_TABLE[self.state, trigger]
        if isinstance(outcome, ServerState):
            self.state = outcome
            self.is_ready = outcome in _READY
        return outcome

    def _hold(self, data: bytes) -> None:
        """Keep a message for later: the application must not see it before READY."""
        if len(data) > self.max_message_bytes:
            self.fail(Refusal("message_too_big"))
        elif len(self._held) >= MAX_HELD:
            self.fail(Refusal("auth_required", "Too many messages before 'ready'."))
        else:
            self._held.append(data)

    def _too_fast(self, data: bytes, counts_as: float, now: float) -> None:
        """Refuse a message that is beyond a rate. Each is forgiven at a rate of its own."""
        wait = max(self._messages.wait(), self._bytes.wait(counts_as))
        forgiven = self._strikes.take(now) and self._byte_strikes.take(now, counts_as)
        refusal = Refusal("rate_limited", retry_after=wait)
        try:
            id = decode_envelope(data).id
        except Refusal:
            id = None
        if forgiven:
            self.outgoing.append(codec.encode(_error(refusal, id, fatal=False)))
        else:
            self.fail(refusal, id=id)

    def _forget_credentials(self) -> None:
        self.auth = None
        self.auth_fields = {}


def _error(refusal: Refusal, id: Id | None, *, fatal: bool) -> Error:
    after = refusal.retry_after
    message = refusal.message[:_MAX_ERROR_TEXT]
    error = Error(code=refusal.code, message=message, retry=refusal.retry, fatal=fatal, id=id)
    if after is None:
        return error
    # Rounded up: whoever waits for so long must not be too early. A billionth is no delay.
    return structs.replace(error, retry_after_ms=math.ceil(after * 1000 - 1e-6))
