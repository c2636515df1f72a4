"""What happens in a server, for those who count it or record it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from trioserver.logs.paths import masked_path

if TYPE_CHECKING:
    from trioserver.app.connection import Connection
    from trioserver.telemetry.phases import PhaseTimes

CLIENT_DISCONNECTED: Final = "client_disconnected"
"""Why a connection ended, or an authentication: the client closed or left, with any close code."""


@attrs.frozen(kw_only=True)
class RefusedRequest:
    """A request that was refused before any WebSocket existed.

    ``status`` is that of the HTTP answer, 0 where the connection was closed without one, and
    ``path`` is cut and without tokens (`trioserver.logs.paths`), and empty if it was not requested.
    ``code`` is one of a few words: "bad_request", "origin", "host", "handshake_rate",
    "request_rate", "address_blocked", "server_busy", "proxy_protocol". ``origin`` is the page's
    that was refused, cut off at 256 characters; None for all other codes.
    """

    remote: str
    path: str = attrs.field(converter=masked_path)
    status: int
    reason: str
    code: str = "bad_request"
    origin: str | None = None


@attrs.frozen(kw_only=True)
class Eviction:
    """A connection that was not authenticated, or HTTP, was evicted, after ``age`` seconds.

    ``remote`` is what it was counted under: an IPv4 address, an IPv6 network of 64 bits, or empty
    where it had no address of its own. ``cap`` is "address" (``max_unauthenticated_per_address``),
    "all" (``max_unauthenticated``), "http" (``http.max_connections``) or "connections".
    """

    remote: str
    cap: str
    age: float


@attrs.frozen(kw_only=True)
class AddressBlock:
    """An address, or an IPv6 network of 64 bits, is not let in for ``duration`` seconds."""

    remote: str
    duration: float


@attrs.frozen(kw_only=True)
class Attempt:
    """One authentication of a connection, as it ended.

    ``outcome`` is "ready" or, of a ``refresh``, "refreshed"; else the error code of the refusal, or
    `CLIENT_DISCONNECTED`. ``duration`` is in seconds, from the accepted handshake, or the new
    `auth`, on. ``token`` is the fingerprint of the token that was shown, None where none was.
    """

    outcome: str
    duration: float
    refresh: bool = False
    token: str | None = None


@attrs.frozen(kw_only=True)
class AuthAttempt:
    """An authentication over HTTP that has ended: a login form, an MPIN, a bearer token.

    ``method`` says how it was tried: "password", "mpin", "bearer", or a word of the application's
    own. ``code`` is the error's, None where it succeeded. ``user`` is the id of the account that
    was tried, None where there is no such account: what somebody types into that field may be a
    password. ``remote`` is the client's "host:port", ``path`` the request's, cut and without
    tokens. ``token`` is the fingerprint of a token, ``token_id`` its ``jti``; ``duration`` is in
    seconds.
    """

    method: str
    code: str | None = None
    user: str | None = None
    remote: str = ""
    path: str | None = attrs.field(default=None, converter=attrs.converters.optional(masked_path))
    token_id: str | None = None
    token: str | None = None
    duration: float | None = None


@attrs.frozen(kw_only=True)
class Act:
    """Something that an administrator did, or was refused.

    ``actor`` is the user's id, "" where nobody is known. ``affected`` counts what was met, and
    ``target`` says it. ``code`` is the error's, of a refusal; None: it was done. ``remote`` and
    ``path`` are the request's, the path cut and without tokens, ``token`` is the fingerprint of the
    token, and ``duration`` is in seconds; None where there is no such thing.
    """

    actor: str
    name: str
    target: Mapping[str, str]
    affected: int
    code: str | None = None
    remote: str = ""
    path: str | None = attrs.field(default=None, converter=attrs.converters.optional(masked_path))
    token_id: str | None = None
    token: str | None = None
    duration: float | None = None


class Observer:
    """Does nothing; override what is of interest.

    Plain functions, called where it happens: they must not block, and must not raise.
    """

    def request_refused(self, request: RefusedRequest) -> None:
        """A request was refused before it became a connection."""

    def attempted(self, connection: Connection, attempt: Attempt) -> None:
        """An authentication has ended; ``connection.user`` is known where the token was good."""

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        """An authentication over HTTP has ended: see `Server.record_auth_attempt`."""

    def became_ready(self, connection: Connection) -> None:
        """A connection is READY: its `ready` has left. It is the same moment for presence."""

    def closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        """A connection has ended, with this close code and reason.

        ``reason`` is an error code, or `CLIENT_DISCONNECTED`. ``phases`` says when the connection
        entered each phase.
        """

    def administered(self, act: Act) -> None:
        """An administrator did something, or was refused."""

    def evicted(self, eviction: Eviction) -> None:
        """Somebody who was not authenticated had to give way to somebody else."""

    def address_blocked(self, block: AddressBlock) -> None:
        """Too many forged tokens came from an address."""


class Observers(Observer):
    """Several as one, in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def add(self, observer: Observer) -> None:
        """Tell this one too, after the others; what is being told now is not told to it."""
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Tell this one no more."""
        self._observers = tuple(each for each in self._observers if each is not observer)

    def request_refused(self, request: RefusedRequest) -> None:
        for observer in self._observers:
            observer.request_refused(request)

    def attempted(self, connection: Connection, attempt: Attempt) -> None:
        for observer in self._observers:
            observer.attempted(connection, attempt)

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        for observer in self._observers:
            observer.on_auth_attempt(attempt)

    def became_ready(self, connection: Connection) -> None:
        for observer in self._observers:
            observer.became_ready(connection)

    def closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        for observer in self._observers:
            observer.closed(connection, code, reason, phases)

    def administered(self, act: Act) -> None:
        for observer in self._observers:
            observer.administered(act)

    def evicted(self, eviction: Eviction) -> None:
        for observer in self._observers:
            observer.evicted(eviction)

    def address_blocked(self, block: AddressBlock) -> None:
        for observer in self._observers:
            observer.address_blocked(block)
