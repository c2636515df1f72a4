"""The built-in routes, assembled: each can be turned off, and all moved to a second listener."""

from __future__ import annotations

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trioserver.http.health import health_routes
from trioserver.http.host_server import HostServer
from trioserver.http.protocol_page import protocol_routes


def builtin_routes(
    server: HostServer,
    *,
    metrics: ASGIApp | None = None,
    admin: ASGIApp | None = None,
    shared: bool = False,
) -> list[BaseRoute]:
    """What the configuration leaves on. ``metrics`` is an endpoint, ``admin`` an application;
    None where there is none. ``shared``: they are on the port of the WebSockets, where what tells
    of others is for this machine only, unless it was asked for.
    """
    config = server.config.http
    routes: list[BaseRoute] = []
    if config.health:
        routes += health_routes(server)
    if config.protocol:
        routes += protocol_routes()
    private: list[tuple[BaseRoute, bool | None]] = []
    if metrics is not None:
        private.append((Route("/metrics", metrics, methods=["GET"]), config.metrics))
    if admin is not None:
        private.append((Mount("/api/v1/admin", admin), config.admin))
    for route, wanted in private:
        if wanted is None and shared:
            routes.append(LocalOnly(route))
        elif wanted is not False:
            routes.append(route)
    return routes


class LocalOnly(BaseRoute):
    """A route that is there for requests of this machine only: ``scope["trioserver.local"]``."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As of Starlette's routes."""
        return self._route.matches(scope) if scope["trioserver.local"] else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As of Starlette's routes."""
        await self._route.handle(scope, receive, send)
