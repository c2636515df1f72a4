"""Operators watch the server live: WebSocket ``/admin/ws``, for tokens with the admin role.

Clients ask (``get_stats``, ``list_attempts``, ``list_connections``, ``list_dashboards``), act
(``broadcast``, ``disconnect``, ``block``, ``unblock``), and subscribe to the topics "stats",
"attempts", "connections" and "broadcast". Figures are made once a second, and only while somebody
is subscribed to them. Who subscribes to "stats" gets each as the protocol's ``event``, and as
``stats_update``, which is what deployed dashboards read.

A broadcast goes to all dashboards, and is kept for those administrators who are away.

``GET /api/v1/auth/verify`` says whether a bearer token is good; ``GET /api/v1/dashboard/attempts``
lists authentication attempts, from the server's audit.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import attrs
import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trioserver import (
    Application,
    Connection,
    ConnectionFilter,
    ConnectionReport,
    Database,
    Mailbox,
    Presence,
    Refusal,
    Server,
    TooManyBlocksError,
    User,
)
from trioserver.auth import Authenticator
from trioserver.examples.dashboard_service import Dashboard, Limit, Page, metadata, tell_stats
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, authenticate, refuse

PATH: Final = "/admin/ws"

TOPICS: Final = frozenset({"stats", "attempts", "connections", "broadcast"})

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern="^[^\\x00-\\x1f\\x7f]*$")]


class Broadcast(msgspec.Struct):
    """The payload of ``broadcast``."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class ConnectionPage(msgspec.Struct):
    """The payload of ``list_connections``; ``after`` is the ``next`` of the previous page."""

    limit: Limit = 100
    after: Text | None = None
    user: Text | None = None


class Disconnect(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of ``disconnect``: one of the two. Unknown names are rejected."""

    connection: Text | None = None
    user: Text | None = None


class Block(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of ``block`` and ``unblock``: one of the two. ``for_ms`` None: without end."""

    user: Text | None = None
    sid: Text | None = None
    reason: Text | None = None
    for_ms: Annotated[int, msgspec.Meta(ge=1, le=100 * 365 * 86_400_000)] | None = None


def make(
    database_url: str, *, auth: Authenticator, origins: Iterable[str] | None = None
) -> Application:
    """The application. ``origins``: the pages that may connect, in place of the server's list."""
    database, presence = Database(database_url), Presence()

    @asynccontextmanager
    async def lifespan(application: Application, server: Server) -> AsyncIterator[None]:
        async with database, trio.open_nursery() as nursery:
            await database.run(metadata.create_all)
            dashboard = Dashboard(application, server, presence, database)
            application.state["dashboard"] = dashboard
            nursery.start_soon(dashboard.run)
            yield
            nursery.cancel_scope.cancel()

    async def is_administrator(user: User, resource: Mapping[str, str]) -> bool:
        admin = _dashboard(application).server.config.admin
        if not user.has_role(admin.role, admin.role_claim):
            raise Refusal("forbidden", "The token is valid, but its user is not an administrator.")
        return True

    web = Starlette(
        routes=[
            Route("/api/v1/auth/verify", verify, methods=["GET"]),
            Route("/api/v1/dashboard/attempts", attempts, methods=["GET"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    mailbox = Mailbox(database, namespace="dashboard")
    application = Application(auth=auth, lifespan=lifespan, http=web, mailbox=mailbox)
    application.add_health_check("dashboard", database.check_health)
    route = application.route(
        PATH,
        authorize=is_administrator,
        allow_query_token=True,
        origins=origins,
        presence=presence,
        mailbox=True,
    )
    route.on_ready(greet)
    route.allow_subscribe(lambda connection, topic: topic in TOPICS or topic == presence.topic())
    for handler in (get_stats, list_attempts, list_connections, list_dashboards):
        route.on(handler.__name__)(handler)
    for act in (broadcast, disconnect, block, unblock):
        route.on(act.__name__)(act)
    return application


def _dashboard(application: Application) -> Dashboard:
    dashboard = application.state["dashboard"]
    assert isinstance(dashboard, Dashboard)
    return dashboard


# ---------------------------------------------------------------------------- over the WebSocket


async def greet(connection: Connection) -> None:
    """Subscribe a new dashboard to broadcasts, and send it who the user is."""
    user = {"id": connection.user.id, "role": connection.user.claims.get("role")}
    connection.subscribe("broadcast")
    await _dashboard(connection.application).remember(connection.user.id)
    await connection.send("connection_established", fields={"user": user})


async def get_stats(connection: Connection) -> dict[str, Any]:
    """Send the figures as ``stats_update``, and as the answer to a request with an id."""
    figures = await _dashboard(connection.application).figures()
    tell_stats(connection, figures)
    return figures


async def list_attempts(connection: Connection, page: Page | None) -> dict[str, Any]:
    """Return authentication attempts, newest first."""
    return await _dashboard(connection.application).attempts(page or Page())


def list_connections(connection: Connection, page: ConnectionPage | None) -> dict[str, Any]:
    """Return the connections, in the order of their ids."""
    page = page or ConnectionPage()
    fitting = ConnectionFilter(user=page.user, after=page.after)
    found = _dashboard(connection.application).server.inspect_all(fitting, limit=page.limit)
    more = found[-1].id if len(found) == page.limit else None
    return {"connections": [_connection(report) for report in found], "next": more}


def _connection(report: ConnectionReport) -> dict[str, Any]:
    """Return a connection with the field names of the administration."""
    return {
        "id": report.id,
        "phase": report.phase,
        "user": report.user,
        "route": report.route,
        "resource": dict(report.resource),
        "address": report.address,
        "age_ms": round(report.age * 1000),
        "messages_received": report.statistics.messages_received,
        "messages_sent": report.statistics.messages_sent,
    }


def list_dashboards(connection: Connection) -> dict[str, Any]:
    """Return the administrators who have a dashboard open."""
    present = _dashboard(connection.application).presence.users()
    return {"dashboards": [attrs.asdict(each) for each in present]}


async def broadcast(connection: Connection, message: Broadcast) -> dict[str, int]:
    """Send a text to all administrators."""
    dashboard = _dashboard(connection.application)
    done = await dashboard.broadcast(message.text, connection.user)
    dashboard.record_action(connection, "broadcast", {}, done["dashboards"])
    return done


def disconnect(connection: Connection, whom: Disconnect) -> dict[str, int]:
    """Close connections at once."""
    dashboard = _dashboard(connection.application)
    target = _one(connection=whom.connection, user=whom.user)
    number = dashboard.server.disconnect(**target)
    dashboard.record_action(connection, "disconnect", target, number)
    return {"disconnected": number}


async def block(connection: Connection, whom: Block) -> dict[str, Any]:
    """Block a user or a session, and close their connections."""
    dashboard = _dashboard(connection.application)
    target = _one(user=whom.user, sid=whom.sid)
    if whom.user == connection.user.id:
        raise Refusal("forbidden", "You cannot block yourself.")
    until = None if whom.for_ms is None else time.time() + whom.for_ms / 1000
    try:
        done = await dashboard.server.block(
            **target, until=until, reason=whom.reason, actor=connection.user.id
        )
    except ValueError as error:
        raise Refusal("invalid_payload", f"{error}.") from None
    except TooManyBlocksError as error:
        raise Refusal("too_many_blocks", f"{error}.") from None
    dashboard.record_action(connection, "block", {**target, "id": done.block.id}, done.disconnected)
    return {"id": done.block.id, "disconnected": done.disconnected, "stored": done.stored}


async def unblock(connection: Connection, whom: Block) -> dict[str, int]:
    """Remove the blocks of a user or a session."""
    dashboard = _dashboard(connection.application)
    target = _one(user=whom.user, sid=whom.sid)
    lifted = await dashboard.server.unblock(**target)
    dashboard.record_action(connection, "unblock", target, lifted)
    return {"unblocked": lifted}


def _one(**given: str | None) -> dict[str, Any]:
    """Return the one field that is given. Raises `Refusal`."""
    target = {name: value for name, value in given.items() if value is not None}
    if len(target) != 1:
        raise Refusal("invalid_payload", f"Give exactly one of: {', '.join(given)}.")
    return target


# ---------------------------------------------------------------------------- over HTTP


async def verify(request: Request) -> Response:
    """Return whether the bearer token is valid, and the error if not."""
    try:
        user = await authenticate(request)
    except Refusal as refusal:
        return refuse(refusal, valid=False)
    left = None if user.expires_at is None else max(0, int(user.expires_at - time.time()))
    shown = {"id": user.id, "role": user.claims.get("role"), "token_id": user.token_id}
    return JSONResponse(
        {"valid": True, "user": shown, "expires_in": left}, headers={"Cache-Control": "no-store"}
    )


async def attempts(request: Request) -> Response:
    """Return authentication attempts, newest first, to an administrator."""
    await authenticate(request, admin=True)
    try:
        page = msgspec.convert(dict(request.query_params), Page, strict=False)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_payload", f"{error}.") from None
    found = await _dashboard(request.scope["trioserver.application"]).attempts(page)
    return JSONResponse(found, headers={"Cache-Control": "no-store"})
