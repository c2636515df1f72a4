"""The administration's application: its routes, who may use them, and how errors are answered."""

from __future__ import annotations

from typing import Final

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trioserver.auth import Authenticator
from trioserver.http.admin.access import require_admin
from trioserver.http.admin.actions import Actions
from trioserver.http.admin.endpoint import Endpoint
from trioserver.http.admin.queries import Queries
from trioserver.http.admin.tokens import TokenInspector
from trioserver.http.bearer import remote_of
from trioserver.http.errors import ApiError, of_http_exception, unavailable
from trioserver.http.host_server import AdministeredServer
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.storage import DatabaseUnavailableError

log: Final = structlog.get_logger("trioserver")


def admin_app(server: AdministeredServer, *, auth: Authenticator | None = None) -> ASGIApp:
    """Return an ASGI application for the administration of ``server``, to be run by Trio.

    ``auth`` verifies the tokens; None takes the application's authenticator. If there is neither,
    every request is answered with 503.
    """
    return _Administration(server, auth or server.application.auth)


class _Administration:
    """Authenticates first: only an administrator learns which paths there are."""

    def __init__(self, server: AdministeredServer, auth: Authenticator | None) -> None:
        self._server = server
        self._auth = auth
        self._routes = _make_routes(server, auth)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI defines it."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        request = HttpRequest(scope, receive)
        started = trio.current_time()
        try:
            caller = await require_admin(self._server, request, self._auth)
        except ApiError as error:
            await error.response(scope, receive, send)
            return
        scope["trioserver.admin"] = (caller, started)
        await self._routes(scope, receive, send)


def _make_routes(server: AdministeredServer, auth: Authenticator | None) -> Starlette:
    queries, actions = Queries(server), Actions(server)
    tokens = TokenInspector(server, auth)

    def route(path: str, **endpoints: Endpoint) -> Route:
        return Route(path, _guarded(_by_method(endpoints)), methods=list(endpoints))

    def failed(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this only"
        return of_http_exception(error).response

    application = Starlette(
        routes=[
            route("/connections", GET=queries.connections),
            route("/connections/{id}", GET=queries.connection),
            route("/disconnect", POST=actions.disconnect),
            route("/blocks", GET=queries.blocks, POST=actions.block),
            route("/unblock", POST=actions.unblock),
            route("/statistics", GET=queries.statistics),
            route("/audit", GET=queries.audit),
            route("/drain", POST=actions.drain),
            route("/inspect-token", POST=tokens.inspect),
        ],
        exception_handlers={HTTPException: failed},
    )
    application.router.redirect_slashes = False
    return application


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def endpoint(request: HttpRequest) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return endpoint


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Turn whatever the endpoint raises into a response."""

    async def guarded(request: HttpRequest) -> Response:
        try:
            return await endpoint(request)
        except ApiError as error:
            return error.response
        except DatabaseUnavailableError:
            return unavailable("The database does not answer.").response
        except Exception as error:
            path = masked_path(request.url.path)
            if may_log("admin_request_failed", remote_of(request), traceback=True):
                log.error("admin_request_failed", path=path, traceback=traceback_of(error))
            return ApiError(500, "internal_error", "The server failed; see its log.").response

    return guarded
