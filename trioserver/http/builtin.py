"""Assemble the built-in routes. Each can be turned off; all can move to a second listener."""

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
    """Return the routes that the configuration leaves on.

    ``metrics`` is an endpoint, ``admin`` an application; None leaves them out. ``shared``: the
    routes are on the port of the WebSockets. Metrics and administration then answer requests from
    this machine only, unless the configuration turns them on.
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
    """A route that exists for requests from this machine only: ``scope["trioserver.local"]``."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as the route does, or not at all."""
        return self._route.matches(scope) if scope["trioserver.local"] else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        await self._route.handle(scope, receive, send)
