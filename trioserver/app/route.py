"""A route: a path that WebSockets connect to, with its handlers and hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from protocol import codec
from protocol.fields import HeartbeatMode
from trioserver.app.functions import name_of
from trioserver.app.handlers import Handler, make_handler
from trioserver.app.mailbox import Mailbox
from trioserver.app.mailbox.acknowledging import ACKNOWLEDGE, make_acknowledge
from trioserver.app.paths import PathPattern
from trioserver.app.presence import Presence
from trioserver.auth import Authenticator, Authorizer
from trioserver.peers.origins import OriginPolicy

_Function = TypeVar("_Function", bound=Callable[..., Any])

Permission: TypeAlias = Callable[[Any, str], bool | Awaitable[bool]]
"""A plain or an async function ``(connection, topic)``: whether the client may use the topic."""

Hook: TypeAlias = Callable[[Any], Awaitable[None] | None]
"""A plain or an async function ``(connection)``."""


def _deny(connection: Any, topic: str) -> bool:
    return False


class Route:
    """A path that WebSockets connect to, and what happens there. Made by `Application.route`."""

    def __init__(
        self,
        path: str,
        *,
        auth: Authenticator,
        authorize: Authorizer | None,
        greeting: str | None,
        auth_aliases: Iterable[str],
        allow_query_token: bool,
        supersede: bool,
        origins: Iterable[str] | None,
        heartbeat: HeartbeatMode,
        presence: Presence | None,
        mailbox: Mailbox | None,
        session_parameter: str | None,
    ) -> None:
        self._pattern = PathPattern(path)
        self.path = path
        self.auth = auth
        self.authorize = authorize
        self.greeting = greeting
        self.auth_aliases = frozenset(auth_aliases)
        self.allow_query_token = allow_query_token
        self.supersede = supersede
        self.session_parameter = session_parameter
        self.heartbeat: HeartbeatMode = heartbeat
        self.origins = None if origins is None else OriginPolicy(origins)
        self.handlers: dict[str, Handler] = {}
        self.may_subscribe: Permission = _deny
        self.may_publish: Permission = _deny
        self.ready_hook: Hook | None = None
        self.close_hook: Hook | None = None
        self._presence = presence
        self._mailbox = mailbox
        if session_parameter is not None and session_parameter not in self.parameters:
            raise ValueError(
                f"{path}: session_parameter={session_parameter!r} is not a parameter of the path"
            )
        if heartbeat not in ("frame", "message"):
            raise ValueError(f"{path}: heartbeat={heartbeat!r} must be 'frame' or 'message'")
        for alias in self.auth_aliases:
            if not codec.is_type_name(alias):
                raise ValueError(f"{path}: auth_aliases: invalid message type {alias!r}")
        if mailbox is not None:
            self.handlers[ACKNOWLEDGE] = make_handler(ACKNOWLEDGE, make_acknowledge(mailbox))

    def __repr__(self) -> str:
        return f"Route({self.path!r})"

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the path's parameters."""
        return self._pattern.parameters

    @property
    def has_presence(self) -> bool:
        """Whether the route was made with a presence."""
        return self._presence is not None

    @property
    def presence(self) -> Presence:
        """The users who are connected. Raises `RuntimeError` if the route was made without it."""
        if self._presence is None:
            raise RuntimeError(f"{self.path}: give the route a presence: presence=Presence()")
        return self._presence

    @property
    def mailbox(self) -> Mailbox | None:
        """The mailbox whose messages are delivered to this route's connections, or None."""
        return self._mailbox

    def match(self, path: str) -> dict[str, str] | None:
        """Return the parameters in a request path, or None if the path does not match."""
        return self._pattern.match(path)

    def on(self, type: str) -> Callable[[_Function], _Function]:
        """Register the handler for messages of a ``type``. The kind of function says how it runs.

        A `def` runs inline and must not block. An `async def` runs in the message loop, one after
        the other. An `async def` with `yield` is a stream. The function takes the connection and,
        optionally, the payload, whose annotation is the type that the payload is decoded into, and
        the message's id. What it returns is the reply.

        Raises `ValueError` if the type has a handler already or is reserved, and `TypeError` if the
        function cannot be a handler.
        """

        def register(function: _Function) -> _Function:
            if type in self.handlers:
                raise ValueError(f"{self.path} has a handler for {type!r} already")
            self.handlers[type] = make_handler(type, function)
            return function

        return register

    def on_ready(self, function: _Function) -> _Function:
        """Register the function to call after `ready`, before any message is handled.

        It takes the connection. If it raises `protocol.Refusal`, the connection is closed with that
        code; any other exception closes it with ``internal_error``. Raises `ValueError` if the
        route has such a function already.
        """
        self._check_unset("on_ready", self.ready_hook)
        self.ready_hook = function
        return function

    def on_close(self, function: _Function) -> _Function:
        """Register the function to call when a connection that was ready has ended.

        It takes the connection, to which nothing can be sent any more. Raises `ValueError` if the
        route has such a function already.
        """
        self._check_unset("on_close", self.close_hook)
        self.close_hook = function
        return function

    def allow_subscribe(self, function: _Function) -> _Function:
        """Register the function that says which topics a client may subscribe to. See `Permission`.

        Without it a client may subscribe to none. Raises `ValueError` if the route has such a
        function already.
        """
        self._check_unset("allow_subscribe", self.may_subscribe)
        self.may_subscribe = function
        return function

    def allow_publish(self, function: _Function) -> _Function:
        """Register the function that says which topics a client may publish to. See `Permission`.

        Without it a client may publish to none. Raises `ValueError` if the route has such a
        function already.
        """
        self._check_unset("allow_publish", self.may_publish)
        self.may_publish = function
        return function

    def _check_unset(self, name: str, current: Callable[..., Any] | None) -> None:
        """Raise `ValueError` rather than silently replace the first function by a second one."""
        if current is not None and current is not _deny:
            raise ValueError(f"{self.path} has an {name} already: {name_of(current)}")
