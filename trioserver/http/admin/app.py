"""The administration's application: first who may, then what, and each act is recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol import Refusal
from trioserver.auth import Authenticator, Inspection, JWTAuth, User, inspect_token
from trioserver.auth.blocks import TooManyBlocksError
from trioserver.http.admin import payloads
from trioserver.http.admin.access import Gate
from trioserver.http.admin.payloads import given, pair, parameters, seconds
from trioserver.http.admin.views import block_view, connection_view, inspection_view
from trioserver.http.bearer import Caller, remote_of
from trioserver.http.bodies import read_json
from trioserver.http.errors import (
    ApiError,
    invalid,
    of_http_exception,
    ok,
    unavailable,
)
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.server.inspection import ConnectionFilter
from trioserver.storage import DatabaseUnavailableError
from trioserver.telemetry.audit import AuditQuery, as_json
from trioserver.telemetry.observer import AdminAction

if TYPE_CHECKING:
    from trioserver.server.server import Server

log: Final = structlog.get_logger("trioserver")

_Endpoint: TypeAlias = Callable[[HttpRequest], Awaitable[Response]]


def admin_app(server: Server, *, auth: Authenticator | None = None) -> ASGIApp:
    """An ASGI application for the administration of ``server``, to be run by Trio.

    ``auth`` judges the tokens; None takes the application's. Where there is neither, every request
    is answered 503.
    """
    auth = auth or server.application.auth
    return _Administration(server, auth)


class _Administration:
    """Asks the gate first: who may not come in learns not even which paths there are."""

    def __init__(self, server: Server, auth: Authenticator | None) -> None:
        self._server = server
        self._auth = auth
        self._gate = Gate(server, auth)
        self._application = self._make_application()

    def _make_application(self) -> Starlette:
        def route(path: str, endpoint: _Endpoint, method: str) -> Route:
            return Route(path, self._guarded(endpoint), methods=[method])

        def failed(request: HttpRequest, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return of_http_exception(error).response

        application = Starlette(
            routes=[
                route("/connections", self._connections, "GET"),
                route("/connections/{id}", self._connection, "GET"),
                route("/disconnect", self._disconnect, "POST"),
                Route(
                    "/blocks",
                    _by_method(GET=self._guarded(self._blocks), POST=self._guarded(self._block)),
                    methods=["GET", "POST"],
                ),
                route("/unblock", self._unblock, "POST"),
                route("/statistics", self._statistics, "GET"),
                route("/audit", self._audit, "GET"),
                route("/drain", self._drain, "POST"),
                route("/inspect-token", self._inspect_token, "POST"),
            ],
            exception_handlers={HTTPException: failed},
        )
        application.router.redirect_slashes = False
        return application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        request = HttpRequest(scope, receive)
        started = trio.current_time()
        try:
            caller = await self._gate.admit(request)
        except ApiError as error:
            await error.response(scope, receive, send)
            return
        scope["trioserver.admin"] = (caller, started)
        await self._application(scope, receive, send)

    def _guarded(self, endpoint: _Endpoint) -> _Endpoint:
        """Whatever an endpoint raises becomes an answer."""

        async def guarded(request: HttpRequest) -> Response:
            try:
                return await endpoint(request)
            except ApiError as error:
                return error.response
            except DatabaseUnavailableError:
                return unavailable("The database does not answer.").response
            except Exception as error:
                path = masked_path(request.url.path)
                if may_log("admin_request_failed", remote_of(request)):
                    log.error("admin_request_failed", path=path, traceback=traceback_of(error))
                return ApiError(500, "internal_error", "The server failed; see its log.").response

        return guarded

    # -------------------------------------------------------------------------- looking

    async def _connections(self, request: HttpRequest) -> Response:
        query = parameters(request, payloads.ConnectionsQuery)
        fitting = ConnectionFilter(
            user=query.user,
            token_id=query.token_id,
            resource=pair("resource", query.resource),
            route=query.route,
            address=query.address,
            phase=query.phase,
            after=query.after,
        )
        found = self._server.inspect_all(fitting, limit=query.limit)
        more = found[-1].id if len(found) == query.limit else None
        shown = [connection_view(report, tasks=False) for report in found]
        return ok({"connections": shown, "next": more})

    async def _connection(self, request: HttpRequest) -> Response:
        parameters(request, payloads.Nothing)
        report = self._server.inspect(request.path_params["id"])
        if report is None:
            raise ApiError(404, "not_found", "There is no such connection; it may have ended.")
        return ok(connection_view(report, tasks=True))

    async def _blocks(self, request: HttpRequest) -> Response:
        query = parameters(request, payloads.BlocksQuery)
        blocks = [b for b in self._server.blocked() if query.user in (None, b.user)]
        if query.after is not None:
            ids = [block.id for block in blocks]
            blocks = blocks[ids.index(query.after) + 1 :] if query.after in ids else []
        page = blocks[: query.limit]
        more = page[-1].id if len(blocks) > query.limit else None
        stored = self._server._blocks.is_stored
        return ok({"blocks": [block_view(b, stored=stored(b)) for b in page], "next": more})

    async def _statistics(self, request: HttpRequest) -> Response:
        parameters(request, payloads.Nothing)
        return ok(attrs.asdict(self._server.statistics()))

    async def _audit(self, request: HttpRequest) -> Response:
        values = parameters(request, payloads.AuditParameters)
        names = (
            "kind", "outcome", "code", "user", "address", "route", "method", "before", "limit",
        )  # fmt: skip
        try:
            query = AuditQuery(
                since=seconds("since", values.since),
                until=seconds("until", values.until),
                **given(values, *names),
            )
        except ValueError as error:
            raise invalid(f"{error}.") from None
        if self._server.audit is None:
            raise ApiError(404, "not_found", "Nothing is recorded: set audit.database.")
        page = await self._server.audit.query(query)
        return ok({"entries": [as_json(entry) for entry in page.entries], "next": page.next})

    # -------------------------------------------------------------------------- acting

    async def _disconnect(self, request: HttpRequest) -> Response:
        wanted = await self._body(request, payloads.Disconnect)
        target = given(wanted, "user", "token_id", "resource", "connection")
        if not target:
            raise invalid("Say whom to disconnect: user, token_id, resource or connection.")
        met = self._server.disconnect(**target, message=wanted.message)
        self._acted(request, "disconnect", target, met)
        return ok({"disconnected": met})

    async def _block(self, request: HttpRequest) -> Response:
        wanted = await self._body(request, payloads.BlockRequest)
        target = given(wanted, "user", "token_id", "session", "resource")
        until = self._until(wanted)
        try:
            done = await self._server.block(
                **target, until=until, reason=wanted.reason, actor=self._caller(request).id
            )
        except ValueError as error:
            raise invalid(f"{error}.") from None
        except TooManyBlocksError as error:
            raise ApiError(409, "too_many_blocks", f"{error}.") from None
        self._acted(request, "block", target | {"id": done.block.id}, done.disconnected)
        later = not done.stored and self._server.audit is not None
        shown = block_view(done.block, stored=done.stored)
        return ok({"block": shown, "disconnected": done.disconnected}, 202 if later else 201)

    def _until(self, wanted: payloads.BlockRequest) -> float | None:
        if wanted.until is not None and wanted.for_ms is not None:
            raise invalid("Give one of until and for_ms.")
        now = self._server._wall_clock()
        until = seconds("until", wanted.until)
        if wanted.for_ms is not None:
            until = now + wanted.for_ms / 1000
        if until is not None and until <= now:
            raise invalid("until has passed already.")
        return until

    async def _unblock(self, request: HttpRequest) -> Response:
        wanted = await self._body(request, payloads.Unblock)
        target = given(wanted, "id", "user", "token_id", "session", "resource")
        if not target:
            raise invalid("Say what to lift: id, user, token_id, session or resource.")
        lifted = await self._server.unblock(**target)
        self._acted(request, "unblock", target, lifted)
        return ok({"unblocked": lifted})

    async def _drain(self, request: HttpRequest) -> Response:
        wanted = await self._body(request, payloads.Drain)
        self._acted(request, "drain", {"reason": wanted.reason}, self._server.statistics().open)
        self._server.start_draining(wanted.reason)
        return ok({"draining": True}, 202)

    async def _inspect_token(self, request: HttpRequest) -> Response:
        wanted = await self._body(request, payloads.InspectToken)
        auth = self._judge_of(wanted.token)
        inspection = inspect_token(wanted.token, auth=auth)
        if auth is not None and inspection.verified:
            inspection = self._with_blocks(inspection, auth.check(wanted.token))
        self._acted(request, "inspect-token", {}, 1)
        return ok(inspection_view(inspection))

    def _judge_of(self, token: str) -> JWTAuth | None:
        """The authenticator that the token is for: the administration's, or that of a route.

        Parts of the server may have keys and audiences of their own. A token whose time is not
        now was verified in all else. If no part takes the token, the administration says why.
        """
        own = self._auth if isinstance(self._auth, JWTAuth) else None
        for auth in (own, *(route.auth for route in self._server.application.routes)):
            if isinstance(auth, JWTAuth):
                refusal = inspect_token(token, auth=auth).refusal
                if refusal is None or refusal.code in ("token_expired", "token_not_yet_valid"):
                    return auth
        return own

    def _with_blocks(self, inspection: Inspection, user: User) -> Inspection:
        """A token that is good is refused all the same where its user is blocked."""
        try:
            self._server._blocks.check(user)
        except Refusal as refusal:
            return attrs.evolve(inspection, verified=False, refusal=refusal)
        return inspection

    # -------------------------------------------------------------------------- recording

    async def _body(self, request: HttpRequest, kind: type[payloads._Struct]) -> payloads._Struct:
        parameters(request, payloads.Nothing)
        config = self._server.config.admin
        return await read_json(
            request, kind, max_bytes=config.max_body_bytes, timeout=config.body_timeout
        )

    def _caller(self, request: HttpRequest) -> User:
        caller: Caller = request.scope["trioserver.admin"][0]
        return caller.user

    def _acted(
        self, request: HttpRequest, name: str, target: Mapping[str, Any], affected: int
    ) -> None:
        started: float
        caller: Caller
        caller, started = request.scope["trioserver.admin"]
        self._server.record_admin_action(
            AdminAction(
                actor=caller.user.id,
                name=name,
                target=_flat(target),
                affected=affected,
                remote=caller.remote,
                path=request.url.path,
                token_id=caller.user.token_id,
                token=caller.token,
                duration=trio.current_time() - started,
            )
        )


def _flat(target: Mapping[str, Any]) -> dict[str, str]:
    """A resource's parameters as "resource.name"."""
    flat: dict[str, str] = {}
    for name, value in target.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": text for inner, text in value.items()}
        else:
            flat[name] = str(value)
    return flat


def _by_method(**endpoints: _Endpoint) -> _Endpoint:
    async def endpoint(request: HttpRequest) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return endpoint
