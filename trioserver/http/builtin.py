"""The built-in routes, assembled: each can be turned off, and all moved to a second listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from trioserver.http.health import health_routes
from trioserver.http.protocol_page import protocol_routes

if TYPE_CHECKING:
    from trioserver.server import Server


def builtin_routes(
    server: Server, *, metrics: ASGIApp | None = None, admin: ASGIApp | None = None
) -> list[BaseRoute]:
    """What the configuration leaves on. ``metrics`` is an endpoint, ``admin`` an application;
    None where there is none.
    """
    config = server.config.http
    routes: list[BaseRoute] = []
    if config.health:
        routes += health_routes(server)
    if config.protocol:
        routes += protocol_routes()
    if config.metrics and metrics is not None:
        routes.append(Route("/metrics", metrics, methods=["GET"]))
    if config.admin and admin is not None:
        routes.append(Mount("/api/v1/admin", admin))
    return routes
