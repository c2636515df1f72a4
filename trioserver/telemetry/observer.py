"""What a server reports as it happens, and the interface of those who count or record it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from trioserver.logs.paths import masked_path

if TYPE_CHECKING:
    from trioserver.app.connection import Connection
    from trioserver.telemetry.phases import PhaseTimes

CLIENT_DISCONNECTED: Final = "client_disconnected"
"""Why a connection or an authentication ended: the client disconnected, with any close code."""


@attrs.frozen(kw_only=True)
class Rejection:
    """The rejection of a request, before it became a connection or reached the application.

    ``status`` is that of the HTTP response, or 0 if the connection was closed without one. ``path``
    is truncated, and whatever looks like a token in it is masked (`trioserver.logs.paths`); it is
    empty if no path was requested. ``code`` is one of "bad_request", "origin", "host",
    "handshake_rate", "request_rate", "address_banned", "server_busy" and "proxy_protocol".
    ``origin`` is the rejected `Origin`, truncated to 256 characters; None for all other codes.
    """

    remote: str
    path: str = attrs.field(converter=masked_path)
    status: int
    reason: str
    code: str = "bad_request"
    origin: str | None = None


@attrs.frozen(kw_only=True)
class Eviction:
    """A connection that was evicted to make room for another, ``age`` seconds after its start.

    It was not authenticated yet, or it was an HTTP connection. ``remote`` is the address it was
    counted under: an IPv4 address, an IPv6 /64 network, or empty if it had no address of its own.
    ``cap`` is the limit that was reached: "address"
    (``max_unauthenticated_per_address``), "all" (``max_unauthenticated``), "http"
    (``http.max_connections``) or "connections".
    """

    remote: str
    cap: str
    age: float


@attrs.frozen(kw_only=True)
class AddressBan:
    """An IPv4 address or IPv6 /64 network that was banned for ``duration`` seconds."""

    remote: str
    duration: float


@attrs.frozen(kw_only=True)
class AuthAttempt:
    """An authentication that has ended, over a WebSocket or over HTTP.

    - ``method``: "websocket", or over HTTP "bearer", "password", "mpin" or the application's word.
    - ``code``: None if it succeeded. Otherwise the error code of the rejection, or
      `CLIENT_DISCONNECTED`.
    - ``refresh``: True for a new token on a connection that is ready.
    - ``user``: the id of the user whose token was good, or of the account that was tried; None if
      there is no such account, because what was typed into that field may be a password.
    - ``remote``: the client's "host:port".
    - ``path``: of the request, truncated, and with whatever looks like a token masked.
    - ``token``: the fingerprint of the token, if there was one; ``token_id``: its ``jti``.
    - ``duration``: in seconds, from the accepted handshake or the new token on.
    - ``connection``: the WebSocket connection; None over HTTP.
    """

    method: str
    code: str | None = None
    refresh: bool = False
    user: str | None = None
    remote: str = ""
    path: str | None = attrs.field(default=None, converter=attrs.converters.optional(masked_path))
    token_id: str | None = None
    token: str | None = None
    duration: float | None = None
    connection: Connection | None = None


@attrs.frozen(kw_only=True)
class AdminAction:
    """Something that an administrator did, or tried to do.

    - ``actor``: the administrator's user id, "" if it is not known.
    - ``name``: what was done. ``target``: to whom or what. ``affected``: how many it applied to.
    - ``code``: the error code if it was rejected; None if it was done.
    - ``remote``, ``path``, ``token``, ``token_id``, ``duration``: of the request, as in
      `AuthAttempt`; None if there was none.
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
    """Callbacks for what happens in a server. They do nothing: override those you need.

    They are called where it happens, so they must not block and must not raise.
    """

    def on_request_rejected(self, rejection: Rejection) -> None:
        """A request was rejected before it became a connection."""

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        """An authentication has ended, successful or not."""

    def on_ready(self, connection: Connection) -> None:
        """A connection is READY: its `ready` message was sent."""

    def on_closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        """A connection has ended, with this close code and reason.

        ``reason`` is an error code, or `CLIENT_DISCONNECTED`. ``phases`` says when the connection
        entered each phase.
        """

    def on_admin_action(self, action: AdminAction) -> None:
        """An administrator did something, or was rejected."""

    def on_evicted(self, eviction: Eviction) -> None:
        """A connection was evicted to make room for another."""

    def on_address_banned(self, ban: AddressBan) -> None:
        """An address was banned, because too many invalid tokens came from it."""


class Observers(Observer):
    """Passes each callback on to several observers, in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def add(self, observer: Observer) -> None:
        """Add an observer after the others. It does not get the callback that is running now."""
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Remove an observer."""
        self._observers = tuple(each for each in self._observers if each is not observer)

    def on_request_rejected(self, rejection: Rejection) -> None:
        for observer in self._observers:
            observer.on_request_rejected(rejection)

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        for observer in self._observers:
            observer.on_auth_attempt(attempt)

    def on_ready(self, connection: Connection) -> None:
        for observer in self._observers:
            observer.on_ready(connection)

    def on_closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        for observer in self._observers:
            observer.on_closed(connection, code, reason, phases)

    def on_admin_action(self, action: AdminAction) -> None:
        for observer in self._observers:
            observer.on_admin_action(action)

    def on_evicted(self, eviction: Eviction) -> None:
        for observer in self._observers:
            observer.on_evicted(eviction)

    def on_address_banned(self, ban: AddressBan) -> None:
        for observer in self._observers:
            observer.on_address_banned(ban)
