"""An application: its routes, the other applications that it includes, its topics and services."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import attrs

from protocol.fields import HeartbeatMode
from trioserver.app.mailbox import Mailbox
from trioserver.app.presence import Presence
from trioserver.app.publishing import Publisher
from trioserver.app.route import Route
from trioserver.auth import Authenticator, Authorizer
from trioserver.engine.memory import MemoryEngine

HealthCheck: TypeAlias = Callable[[], Awaitable[object]]
"""Returns if all is well. Returns False, or raises, if it is not."""

AsgiApplication: TypeAlias = Callable[..., Awaitable[None]]
"""An ASGI application: Starlette, FastAPI, Quart, or a function ``(scope, receive, send)``."""

Lifespan: TypeAlias = Callable[..., AbstractAsyncContextManager[None]]
"""The result of `contextlib.asynccontextmanager` for a function that takes the application and,
optionally, the `Server` that is about to run it."""


@attrs.frozen
class RouteMatch:
    """A route, the application it belongs to, and the parameters of the path that matched."""

    application: Application
    route: Route
    path_params: Mapping[str, str]


class Application:
    """Routes that share an authenticator, topics, and services.

    - ``auth``: the authenticator of all routes that have none of their own.
    - ``lifespan``: an async context manager that takes the application and, optionally, the
      `Server`. It is entered before the first connection and exited after the last. Put what
      handlers need into ``state``, which they reach as ``connection.application.state``.
    - ``http``: an ASGI application for requests that are not for a WebSocket; needs the extra
      "http". ``scope["trioserver"]`` is the `Server`, and ``scope["trioserver.application"]`` is
      this application.
    - ``http_prefix``: mount ``http`` below this path, such as "/shop".
    - ``mailbox``: keeps messages for users who are not connected; see `Mailbox`.

    Several servers in one process may serve one application, each with its own lifespan.
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
            raise ValueError(
                f"invalid http_prefix {http_prefix!r}: it must look like '/shop', with a slash at "
                "the start and none at the end"
            )
        self.auth = auth
        self.lifespan = lifespan
        self.http = http
        self.http_prefix = http_prefix
        self.health_checks: dict[str, HealthCheck] = {}
        self.state: dict[str, Any] = {}
        self._mailbox = mailbox
        self._publisher = Publisher()
        self._routes: list[Route] = []
        self._included: list[Application] = []

    @property
    def routes(self) -> list[Route]:
        """The routes of this application, then those of the applications it includes."""
        return [*self._routes, *(route for other in self._included for route in other.routes)]

    @property
    def parts(self) -> list[Application]:
        """This application and all that it includes, each before its own parts."""
        return [self, *(part for other in self._included for part in other.parts)]

    @property
    def mailbox(self) -> Mailbox:
        """The mailbox. Raises `RuntimeError` if the application was made without one."""
        if self._mailbox is None:
            raise RuntimeError("give the application a mailbox: mailbox=Mailbox(database)")
        return self._mailbox

    @property
    def engine(self) -> MemoryEngine:
        """The subscribers of each topic."""
        return self._publisher.engine

    def include(self, other: Application) -> None:
        """Serve another application's routes too; it keeps its topics, services and lifespan.

        Raises `ValueError` if both have a route with the same path, if ``other`` is included
        already, or if ``other`` includes this application.
        """
        mine = {id(part) for part in self.parts}
        for part in other.parts:
            if part is self:
                raise ValueError("an application cannot include itself, nor one that includes it")
            if id(part) in mine:
                raise ValueError("this application, or one that it includes, is included already")
        for route in other.routes:
            self._check_free(route.path)
        self._included.append(other)

    def route(
        self,
        path: str,
        *,
        authorize: Authorizer | None = None,
        auth: Authenticator | None = None,
        greeting: str | None = None,
        auth_aliases: Iterable[str] = (),
        allow_query_token: bool = False,
        supersede: bool = False,
        origins: Iterable[str] | None = None,
        heartbeat: HeartbeatMode = "frame",
        presence: Presence | None = None,
        mailbox: bool = False,
        session_parameter: str | None = None,
    ) -> Route:
        """Add a route. ``path`` may have parameters: "/ws/conversations/{conversation_id}".

        - ``authorize``: whether the user may use the resource that the path's parameters name;
          required if the path has parameters. See `trioserver.auth.Authorizer`.
        - ``auth``: the route's authenticator, in place of the application's.
        - ``greeting``: a text for `hello`.
        - ``auth_aliases``: message types that are accepted as `auth`, for deployed clients.
        - ``allow_query_token``: also accept the token from ``?token=``. Proxies log URLs and
          browsers keep them, so use it only for clients that cannot send a first message.
        - ``supersede``: a new connection of the same user to the same resource ends the old one.
        - ``origins``: which web pages may connect, in place of `OriginConfig.allow`.
        - ``heartbeat``: how to ping clients that do not ask for a mode. "message" sends `ping`
          messages, for clients that cannot see WebSocket's own ping frames.
        - ``presence``: tracks which users are connected; one for each route.
        - ``mailbox``: deliver the messages that the application's mailbox keeps for the user.
        - ``session_parameter``: the path parameter that is the id of a login session. A block of
          that session closes the connections to it, whatever their token, and later ones are
          refused with ``session_blocked`` after the authorization.

        Raises `ValueError` with what to change.
        """
        auth = auth or self.auth
        if auth is None:
            raise ValueError(
                f"{path}: give the application or the route an authenticator: auth=..."
            )
        route = Route(
            path,
            auth=auth,
            authorize=authorize,
            greeting=greeting,
            auth_aliases=auth_aliases,
            allow_query_token=allow_query_token,
            supersede=supersede,
            origins=origins,
            heartbeat=heartbeat,
            presence=presence,
            mailbox=self.mailbox if mailbox else None,
            session_parameter=session_parameter,
        )
        if authorize is None and route.parameters:
            raise ValueError(
                f"{path}: a path with parameters needs authorize=..., an async function (user, "
                "resource) -> bool; authorize=allow_any_user admits every authenticated user"
            )
        self._check_free(path)
        if presence is not None:
            presence.bind(path, route.parameters, self.publish)
        self._routes.append(route)
        return route

    def _check_free(self, path: str) -> None:
        if any(route.path == path for route in self.routes):
            raise ValueError(f"{path}: there is a route with this path already")

    def match(self, path: str) -> RouteMatch | None:
        """Return the first route, in order of registration, that matches the path, or None."""
        for route in self._routes:
            resource = route.match(path)
            if resource is not None:
                return RouteMatch(self, route, resource)
        return next(filter(None, (other.match(path) for other in self._included)), None)

    def add_health_check(self, name: str, check: HealthCheck) -> None:
        """Let ``/readyz`` also call ``check``, an async function without arguments.

        The check fails if it returns False, raises, or takes longer than
        `HttpConfig.check_timeout`. The response contains ``name``; only the log contains the
        reason. Raises `ValueError` if the name is in use or is not 1 to 64 of ``a-z 0-9 _ . -``.
        """
        if not re.fullmatch(r"[a-z0-9_.-]{1,64}", name):
            raise ValueError(f"invalid name {name!r}: use 1 to 64 of the characters a-z 0-9 _ . -")
        if name in self.health_checks:
            raise ValueError(f"there is a health check {name!r} already")
        self.health_checks[name] = check

    def publish(self, topic: str, data: Any) -> int:
        """Send ``data`` to all subscribers of ``topic``, and return the event's offset.

        Never waits for a subscriber. Raises `TypeError` or `ValueError` for data that JSON cannot
        express, and `protocol.TooBigToSendError` for an event that is larger than the largest
        message that can be sent; then no subscriber gets it.
        """
        return self._publisher.publish(topic, data)

    # ------------------------------------------------------------- for the server

    def components(self) -> Iterator[tuple[str, Any]]:
        """Yield everything that may be a `Component`, with what it is used for.

        One that is used several times comes several times.
        """
        yield "auth", self.auth
        yield "mailbox", self._mailbox
        for route in self._routes:
            yield "auth", route.auth
            yield "authorization", route.authorize
            if route.has_presence:
                yield "presence", route.presence
        for other in self._included:
            yield from other.components()

    def limit_messages(self, server: object, max_bytes: int) -> None:
        """Note that ``server``, while it exists, sends no message larger than ``max_bytes``."""
        self._publisher.limit_messages(server, max_bytes)
        if self._mailbox is not None:
            self._mailbox.max_message_bytes = self._publisher.max_message_bytes


async def allow_any_user(user: Any, resource: Mapping[str, str]) -> bool:
    """An `Authorizer` that admits every authenticated user."""
    return True
