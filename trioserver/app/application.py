"""What an embedder writes: an application, its routes, their handlers and hooks."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import attrs

from protocol import TooBigToSendError, codec, raw
from protocol.messages import MAX_SAFE_INTEGER, Event, HeartbeatMode
from trioserver.app.handlers import Handler, make_handler, name_of
from trioserver.app.mailbox import Mailbox
from trioserver.app.mailbox.acknowledging import ACKNOWLEDGE, acknowledge
from trioserver.app.presence import Presence
from trioserver.auth import Authenticator, Owner
from trioserver.engine.memory import MemoryEngine
from trioserver.peers.origins import OriginPolicy
from trioserver.websocket.headers import encode_text
from trioserver.websocket.memory import shared

if TYPE_CHECKING:
    from protocol.options import ProtocolOptions
    from trioserver.app.connection import Connection
    from trioserver.config import Config

_Function = TypeVar("_Function", bound=Callable[..., Any])

Permission: TypeAlias = "Callable[[Connection, str], bool | Awaitable[bool]]"
"""Whether a client may subscribe, or publish, to a topic; a plain or an async function."""

Hook: TypeAlias = "Callable[[Connection], Awaitable[None] | None]"

HealthCheck: TypeAlias = Callable[[], Awaitable[object]]
"""Returns when all is well; returns False, or raises, when it is not."""

AsgiApplication: TypeAlias = Callable[..., Awaitable[None]]
"""An ASGI application: Starlette, FastAPI, Quart, or a function ``(scope, receive, send)``."""

Lifespan: TypeAlias = "Callable[..., AbstractAsyncContextManager[None]]"
"""What `contextlib.asynccontextmanager` makes of a function that takes the application and, if it
wants it, the `Server` that is about to run it."""

_EVENT_BYTES: Final = 64
"""Of an event, at the most, without its data and its topic, of which each character is at most six
bytes of JSON."""

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _no_one(connection: Connection, topic: str) -> bool:
    return False


class Route:
    """A path that WebSockets connect to, and what happens there. Made by `Application.route`."""

    def __init__(
        self,
        application: Application,
        path: str,
        *,
        auth: Authenticator,
        owner: Owner | None,
        greeting: str | None,
        auth_aliases: Iterable[str],
        allow_query_token: bool,
        supersede: bool,
        origins: Iterable[str] | None,
        heartbeat: HeartbeatMode,
        presence: Presence | None,
        mailbox: Mailbox | None,
        session: str | None,
    ) -> None:
        self.application = application
        self.path = path
        self.auth = auth
        self.owner = owner
        self.greeting = greeting
        self.auth_aliases = frozenset(auth_aliases)
        self.allow_query_token = allow_query_token
        self.supersede = supersede
        self.session = session
        self.heartbeat: HeartbeatMode = heartbeat
        self.origins = None if origins is None else OriginPolicy(origins)
        self.handlers: dict[str, Handler] = {}
        self.may_subscribe: Permission = _no_one
        self.may_publish: Permission = _no_one
        self.ready_hook: Hook | None = None
        self.close_hook: Hook | None = None
        self._presence = presence
        self._mailbox = mailbox
        self._pattern = _compile(path)
        self._options: tuple[Config, ProtocolOptions] | None = None  # the latest, for `opening`
        if session is not None and session not in self.parameters:
            raise ValueError(f"session: {path} has no parameter {session!r}")
        if heartbeat not in ("frame", "message"):
            raise ValueError(f"heartbeat is {heartbeat!r}; it must be 'frame' or 'message'")
        for alias in self.auth_aliases:
            if not codec.is_type_name(alias):
                raise ValueError(f"auth_aliases: {alias!r} is no message type")
        if presence is not None:
            presence._belong_to(self)
        if mailbox is not None:
            self.handlers[ACKNOWLEDGE] = make_handler(ACKNOWLEDGE, acknowledge)

    def __repr__(self) -> str:
        return f"Route({self.path!r})"

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the path's parameters."""
        return frozenset(self._pattern.groupindex)

    @property
    def presence(self) -> Presence:
        """Who is connected. Raises `RuntimeError` where the route was made without."""
        if self._presence is None:
            raise RuntimeError(f"{self.path}: give the route a presence: presence=Presence()")
        return self._presence

    def match(self, path: str) -> dict[str, str] | None:
        """The path parameters, None where the path is another's."""
        match = self._pattern.fullmatch(path)
        return None if match is None else match.groupdict()

    def on(self, type: str) -> Callable[[_Function], _Function]:
        """Register the handler for messages of a ``type``. The kind of function says how it runs.

        `def` runs inline and must not block; `async def` runs in the message loop, one after the
        other; `async def` with `yield` is a stream. It takes the connection and, if it wants it,
        the payload, whose annotation says what it must look like. What it returns is the reply.

        Raises `ValueError` where the name is taken or reserved, `TypeError` where the function
        does not fit.
        """

        def register(function: _Function) -> _Function:
            if type in self.handlers:
                raise ValueError(f"{self.path} has a handler for {type!r} already")
            self.handlers[type] = make_handler(type, function)
            return function

        return register

    def on_ready(self, function: _Function) -> _Function:
        """Called with each connection after its `ready`, before any of its messages is handled.

        Raising `protocol.Refusal` closes the connection with that code, anything else with
        ``internal_error``. Raises `ValueError` where the route has one already.
        """
        self._only_once("on_ready", self.ready_hook)
        self.ready_hook = function
        return function

    def on_close(self, function: _Function) -> _Function:
        """Called with each connection that was ready, when it has ended. Nothing can be sent.

        Raises `ValueError` where the route has one already.
        """
        self._only_once("on_close", self.close_hook)
        self.close_hook = function
        return function

    def allow_subscribe(self, function: _Function) -> _Function:
        """Says which topics a client may subscribe to; without it, none.

        Raises `ValueError` where the route has one already.
        """
        self._only_once("allow_subscribe", self.may_subscribe)
        self.may_subscribe = function
        return function

    def allow_publish(self, function: _Function) -> _Function:
        """Says which topics a client may publish to; without it, none.

        Raises `ValueError` where the route has one already.
        """
        self._only_once("allow_publish", self.may_publish)
        self.may_publish = function
        return function

    def _only_once(self, name: str, there: Callable[..., Any] | None) -> None:
        """A second function would take the place of the first, and nobody would know."""
        if there is not None and there is not _no_one:
            raise ValueError(f"{self.path} has an {name} already: {name_of(there)}")


@attrs.frozen
class Match:
    """A route and the path parameters it was reached with."""

    route: Route
    resource: Mapping[str, str]


class Application:
    """Routes that share an authenticator, topics, and services.

    - ``auth``: who is on the other end, unless a route says otherwise.
    - ``lifespan``: an async context manager that is given the application and, where it takes a
      second argument, the `Server`: what it opens is there before the first connection and closed
      after the last. What handlers need of it goes into ``state``, which they reach as
      ``connection.application.state``.
    - ``http``: an ASGI application for the requests that are not for a WebSocket; needs the extra
      "http". ``scope["trioserver"]`` is the `Server`, ``scope["trioserver.application"]`` this.
    - ``http_prefix``: it gets only what is below this path, "/shop", as if it were mounted there.
    - ``mailbox``: keeps messages for users who are not there; see `Mailbox`.

    One application may be served by several servers in one process, each with its lifespan.
    """

    def __init__(
        self,
        *,
        auth: Authenticator | None = None,
        lifespan: Lifespan | None = None,
        http: AsgiApplication | None = None,
        http_prefix: str = "",
        mailbox: Mailbox | None = None,
    ) -> None:
        if http_prefix and (not http_prefix.startswith("/") or http_prefix.endswith("/")):
            raise ValueError(f"http_prefix is {http_prefix!r}; it must look like '/shop'")
        self.auth = auth
        self.lifespan = lifespan
        self.http = http
        self.http_prefix = http_prefix
        self.health_checks: dict[str, HealthCheck] = {}
        self._mailbox = mailbox
        self.state: dict[str, Any] = {}
        self.engine = MemoryEngine(_event_frame)
        self._bounds: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self._max_message_bytes = sys.maxsize
        self._routes: list[Route] = []
        self._included: list[Application] = []

    @property
    def routes(self) -> list[Route]:
        """Its own, then those of the applications it includes."""
        return [route for part in self.parts for route in part._routes]

    @property
    def parts(self) -> list[Application]:
        """This application and all that it includes, each before its own parts."""
        return [self, *(part for other in self._included for part in other.parts)]

    @property
    def mailbox(self) -> Mailbox:
        """What keeps messages for users. Raises `RuntimeError` where there is none."""
        if self._mailbox is None:
            raise RuntimeError("give the application a mailbox: mailbox=Mailbox(database)")
        return self._mailbox

    def include(self, other: Application) -> None:
        """Serve another application's routes too; it keeps its topics, services and lifespan.

        Raises `ValueError` where both have a route with the same path, where it is included
        already, and where that would go round in a circle.
        """
        mine = {id(part) for part in self.parts}
        for part in other.parts:
            if part is self:
                raise ValueError("an application cannot include itself, nor one that includes it")
            if id(part) in mine:
                raise ValueError("this application, or one that it includes, is included already")
        taken = {route.path for route in self.routes}
        for route in other.routes:
            if route.path in taken:
                raise ValueError(f"{route.path}: there is a route with this path already")
        self._included.append(other)

    def route(
        self,
        path: str,
        *,
        owner: Owner | None = None,
        auth: Authenticator | None = None,
        greeting: str | None = None,
        auth_aliases: Iterable[str] = (),
        allow_query_token: bool = False,
        supersede: bool = False,
        origins: Iterable[str] | None = None,
        heartbeat: HeartbeatMode = "frame",
        presence: Presence | None = None,
        mailbox: bool = False,
        session: str | None = None,
    ) -> Route:
        """Add a route. ``path`` may have parameters: "/ws/conversations/{conversation_id}".

        - ``owner``: whether the path's resource is the user's; required where it has parameters.
        - ``auth``: in place of the application's.
        - ``greeting``: a text for `hello`.
        - ``auth_aliases``: other types that count as `auth`, for clients that are out there.
        - ``allow_query_token``: take the token from ``?token=`` too. URLs are logged by proxies
          and kept by browsers; turn it on for clients that can do nothing else.
        - ``supersede``: a new connection of the same user to the same resource ends the old one.
        - ``origins``: which web pages may connect, in place of `OriginConfig.allow`.
        - ``heartbeat``: how clients are pinged that do not ask for either form. "message": by
          `ping` messages, for such as cannot see WebSocket's own frames.
        - ``presence``: knows who is connected; one for each route.
        - ``mailbox``: deliver what the application's mailbox keeps for the user who connects.
        - ``session``: the path parameter that is a session's id. A block of that session closes
          the connections to it, whatever token they came with; those who come later are told
          ``session_blocked`` once the owner check has found the session to be theirs.

        Raises `ValueError` with what to change.
        """
        auth = auth or self.auth
        if auth is None:
            raise ValueError(
                f"{path}: give the application or the route an authenticator: auth=..."
            )
        route = Route(
            self,
            path,
            auth=auth,
            owner=owner,
            greeting=greeting,
            auth_aliases=auth_aliases,
            allow_query_token=allow_query_token,
            supersede=supersede,
            origins=origins,
            heartbeat=heartbeat,
            presence=presence,
            mailbox=self.mailbox if mailbox else None,
            session=session,
        )
        if owner is None and _PARAMETER.search(path):
            raise ValueError(
                f"{path}: its resource needs an owner=..., an async function (user, resource) -> "
                "bool; owner=anyone says that every authenticated user may connect"
            )
        if any(other.path == path for other in self.routes):
            raise ValueError(f"{path}: there is a route with this path already")
        self._routes.append(route)
        return route

    def match(self, path: str) -> Match | None:
        """The first route, in order of registration, that the path fits."""
        for route in self.routes:
            resource = route.match(path)
            if resource is not None:
                return Match(route, resource)
        return None

    def add_health_check(self, name: str, check: HealthCheck) -> None:
        """Have ``/readyz`` ask ``check`` as well: an async function, called without arguments.

        It fails by returning False, raising, or taking longer than `HttpConfig.check_timeout`.
        ``name`` is told to whoever asks, the reason only to the log. Raises `ValueError` where the
        name is taken or is not 1-64 of ``a-z 0-9 _ . -``.
        """
        if not re.fullmatch(r"[a-z0-9_.-]{1,64}", name) or name in self.health_checks:
            raise ValueError(f"{name!r} is taken, or is not 1-64 of a-z 0-9 _ . -")
        self.health_checks[name] = check

    def publish(self, topic: str, data: Any) -> int:
        """Send ``data`` to all subscribers of ``topic``; never waits for any. The event's offset.

        Raises `TypeError` or `ValueError` for what JSON cannot express, and
        `protocol.TooBigToSendError` for an event that is larger than any message that is sent: then
        nobody gets it.
        """
        event = raw(data)
        if len(event) + 6 * len(topic) + _EVENT_BYTES > self._max_message_bytes:
            self._check_size(Event(topic=topic, offset=MAX_SAFE_INTEGER, data=event))
        return self.engine.publish(topic, event)

    def _check_size(self, event: Event) -> None:
        """Raises `TooBigToSendError`."""
        size = len(codec.encode(event))
        if size > self._max_message_bytes:
            raise TooBigToSendError(size, self._max_message_bytes)

    def bound_messages(self, server: object, max_bytes: int) -> None:
        """A server that serves this application sends no message that is larger."""
        self._bounds[server] = max_bytes
        self._max_message_bytes = min(self._bounds.values())
        if self._mailbox is not None:
            self._mailbox.max_message_bytes = self._max_message_bytes


def _event_frame(event: Event) -> bytes:
    """A server's frames are not masked: one serves all who hear the event."""
    return shared(encode_text(codec.encode(event)))


async def anyone(user: Any, resource: Mapping[str, str]) -> bool:
    """An owner check for resources that are every authenticated user's."""
    return True


def _compile(path: str) -> re.Pattern[str]:
    if not path.startswith("/"):
        raise ValueError(f"a route's path starts with '/': {path!r}")
    names = _PARAMETER.findall(path)
    if len(set(names)) != len(names) or re.search(r"[{}]", _PARAMETER.sub("", path)):
        raise ValueError(f"{path!r}: parameters look like {{name}}, each name once")
    parts = _PARAMETER.split(path)  # text and names in turn
    pattern = "".join(
        f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
    return re.compile(pattern)
