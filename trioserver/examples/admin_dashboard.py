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
import traceback
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

import attrs
import msgspec
import sqlalchemy as sa
import structlog
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trioserver import (
    Act,
    Application,
    AuditQuery,
    Connection,
    ConnectionFilter,
    ConnectionReport,
    Mailbox,
    Observer,
    Presence,
    Refusal,
    Server,
    TooManyBlocks,
    User,
)
from trioserver.audit import as_json
from trioserver.auth import Authenticator
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, authenticate, refuse
from trioserver.storage import Database, DatabaseUnavailable

PATH: Final = "/admin/ws"

TOPICS: Final = frozenset({"stats", "attempts", "connections", "broadcast"})

INTERVAL: Final = 1.0
"""Seconds between two looks."""

MOST: Final = 100
"""Attempts, and connections, that are told of one interval; beyond it only how many more."""

REMEMBER_TIMEOUT: Final = 1.0
"""Seconds for which the greeting waits for the database."""

MAX_ADMINS: Final = 200
"""Administrators for whom a broadcast is kept: those who were here last."""

ATTEMPTS: Final = ("attempt", "refresh")

metadata: Final = sa.MetaData()

admins: Final = sa.Table(
    "dashboard_admins",
    metadata,
    sa.Column("user_id", sa.String(255), primary_key=True),
    sa.Column("seen_at", sa.Float, nullable=False),
)

log: Final = structlog.get_logger("trioserver")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern="^[^\\x00-\\x1f\\x7f]*$")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Broadcast(msgspec.Struct):
    """The payload of ``broadcast``."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Page(msgspec.Struct):
    """Of ``list_attempts``; ``before`` is the ``next`` of the page before."""

    limit: Limit = 100
    before: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None


class ConnectionPage(msgspec.Struct):
    """Of ``list_connections``; ``after`` is the ``next`` of the page before."""

    limit: Limit = 100
    after: Text | None = None
    user: Text | None = None


class Disconnect(msgspec.Struct, forbid_unknown_fields=True):
    """Of ``disconnect``: one of the two. A misspelt name must not widen what is met."""

    connection: Text | None = None
    user: Text | None = None


class Block(msgspec.Struct, forbid_unknown_fields=True):
    """Of ``block`` and ``unblock``: one of the two. ``for_ms`` None is until it is lifted."""

    user: Text | None = None
    session: Text | None = None
    reason: Text | None = None
    for_ms: Annotated[int, msgspec.Meta(ge=1, le=100 * 365 * 86_400_000)] | None = None


class Watcher(Observer):
    """Notes which connections have come and gone since it was asked last."""

    def __init__(self) -> None:
        self._ready: set[str] = set()
        self._start()

    def _start(self) -> None:
        self._opened: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._closed: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._count = 0

    def became_ready(self, connection: Connection) -> None:
        self._ready.add(connection.id)
        self._count += 1
        user, route = connection.user.id, connection.route.path
        self._opened.append({"id": connection.id, "user": user, "route": route})

    def closed(self, connection: Connection, code: int, reason: str, timings: Any) -> None:
        if connection.id in self._ready:
            self._ready.discard(connection.id)
            self._count += 1
            self._closed.append({"id": connection.id, "code": code, "reason": reason})

    def take(self) -> dict[str, Any] | None:
        """What has changed; ``more`` counts what is not told."""
        opened, closed = list(self._opened), list(self._closed)
        more = self._count - len(opened) - len(closed)
        self._start()
        change = {"opened": opened, "closed": closed, "more": more, "ready": len(self._ready)}
        return change if opened or closed else None


class Dashboard:
    """The service behind the handlers."""

    def __init__(
        self, application: Application, server: Server, presence: Presence, database: Database
    ) -> None:
        self.application = application
        self.server = server
        self.presence = presence
        self.database = database
        self.watcher = Watcher()
        self._started = trio.current_time()
        self._known: set[str] = set()  # administrators, of whom it is stored that they were here
        self._newest: int | None = None  # attempt that has been told; None: nobody has listened
        self._idle_at = time.time()

    # ------------------------------------------------------------------------ what is pushed

    async def run(self) -> None:
        """Look once a second, if somebody is subscribed. What fails is logged, and tried again."""
        with self.server.observe(self.watcher):
            while True:
                await trio.sleep(INTERVAL)
                try:
                    await self._push()
                except DatabaseUnavailable as error:
                    log.warning("dashboard_unavailable", category=error.category)
                except Exception as error:
                    text = "".join(traceback.format_exception(error))
                    log.error("dashboard_failed", traceback=text)

    async def _push(self) -> None:
        now = time.time()
        watched = {topic for each in self.presence.connections() for topic in each.topics}
        change = self.watcher.take()
        if change is not None and "connections" in watched:
            self.application.publish("connections", change)
        if "stats" in watched:
            figures = await self.figures()
            self.application.publish("stats", figures)
            for connection in self.presence.connections():
                if "stats" in connection.topics:
                    tell_stats(connection, figures)
        if "attempts" in watched:
            await self._push_attempts()
        else:
            self._newest, self._idle_at = None, now

    async def _push_attempts(self) -> None:
        if self.server.audit is None:
            return
        since = self._idle_at if self._newest is None else None
        page = await self.server.audit.query(AuditQuery(kind=ATTEMPTS, since=since, limit=MOST))
        newest = self._newest or 0
        for entry in reversed(page.entries):
            if entry.id > newest:
                self._newest = entry.id
                self.application.publish("attempts", as_json(entry))

    async def figures(self) -> dict[str, Any]:
        """The numbers of a ``stats_update``."""
        measured = await self.server.measure()
        now = measured.statistics
        return {
            "connections": now.open,
            "unauthenticated": now.unauthenticated,
            "ready": now.ready,
            "users": len({connection.user.id for connection in self.server.connections}),
            "accepted": now.accepted,
            "refused": dict(now.refused),
            "messages_in": measured.census.messages_received,
            "messages_out": measured.census.messages_sent,
            "uptime_s": round(trio.current_time() - self._started, 3),
            "at": time.time(),
        }

    # ------------------------------------------------------------------------ what is asked for

    async def attempts(self, page: Page) -> dict[str, Any]:
        """Authentications, newest first. Raises `Refusal`."""
        if self.server.audit is None:
            raise Refusal("not_found", "Nothing is recorded: set audit.database.")
        found = await self.server.audit.query(
            AuditQuery(kind=ATTEMPTS, before=page.before, limit=page.limit)
        )
        return {"attempts": [as_json(entry) for entry in found.entries], "next": found.next}

    async def broadcast(self, text: str, user: User) -> dict[str, int]:
        """Tell all dashboards, and keep it for those administrators who have none open."""
        said = {"text": text, "from": user.id, "at": time.time()}
        query = sa.select(admins.c.user_id).order_by(admins.c.seen_at.desc()).limit(MAX_ADMINS)
        known = await self.database.read(lambda connection: connection.scalars(query).all())
        away = [each for each in known if not self.presence.is_present(each)]
        told = sum("broadcast" in each.topics for each in self.presence.connections())
        self.application.publish("broadcast", said)
        for each in away:
            await self.application.mailbox.send(each, "broadcast", said)
        return {"dashboards": told, "kept_for": len(away)}

    async def remember(self, user: str) -> None:
        """This administrator has been here. A database that is away does not keep them out."""
        if user in self._known:
            return

        def replace(connection: sa.Connection) -> None:
            connection.execute(admins.delete().where(admins.c.user_id == user))
            connection.execute(admins.insert().values(user_id=user, seen_at=time.time()))

        with suppress(DatabaseUnavailable):
            await self.database.run(replace, timeout=REMEMBER_TIMEOUT)
            self._known.add(user)

    def acted(self, connection: Connection, name: str, target: Mapping[str, Any], met: int) -> None:
        """Every act goes to the audit, with who did it."""
        self.server.administered(
            Act(
                actor=connection.user.id,
                name=name,
                target={key: str(value) for key, value in target.items()},
                affected=met,
                remote=connection.request.remote,
                path=PATH,
                token_id=connection.user.token_id,
            )
        )


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
        if not _dashboard(application).server.config.admin.is_admin(user.claims):
            raise Refusal("forbidden", "The token is good, but not an administrator's.")
        return True

    web = Starlette(
        routes=[
            Route("/api/v1/auth/verify", verify, methods=["GET"]),
            Route("/api/v1/dashboard/attempts", attempts, methods=["GET"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    mailbox = Mailbox(database, box="dashboard")
    application = Application(auth=auth, lifespan=lifespan, http=web, mailbox=mailbox)
    application.add_health_check("dashboard", database.check_health)
    route = application.route(
        PATH,
        owner=is_administrator,
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
    """Who is there is told at once; every dashboard hears what is broadcast."""
    user = {"id": connection.user.id, "role": connection.user.claims.get("role")}
    await _dashboard(connection.application).remember(connection.user.id)
    connection.subscribe("broadcast")
    await connection.send("connection_established", fields={"user": user})


def tell_stats(connection: Connection, figures: Mapping[str, Any]) -> None:
    """One that is slow is closed by the server, and holds nobody up."""
    with suppress(trio.ClosedResourceError):
        connection.send_nowait("stats_update", figures)


async def get_stats(connection: Connection) -> dict[str, Any]:
    """The figures now, as ``stats_update``, and in the answer to a request with an id."""
    figures = await _dashboard(connection.application).figures()
    tell_stats(connection, figures)
    return figures


async def list_attempts(connection: Connection, page: Page | None) -> dict[str, Any]:
    """Authentication attempts, newest first."""
    return await _dashboard(connection.application).attempts(page or Page())


def list_connections(connection: Connection, page: ConnectionPage | None) -> dict[str, Any]:
    """Who is connected, in the order of their ids."""
    page = page or ConnectionPage()
    fitting = ConnectionFilter(user=page.user, after=page.after)
    found = _dashboard(connection.application).server.inspect_all(fitting, limit=page.limit)
    more = found[-1].id if len(found) == page.limit else None
    return {"connections": [_connection(report) for report in found], "next": more}


def _connection(report: ConnectionReport) -> dict[str, Any]:
    """With the names that the administration uses."""
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
    """The administrators who are watching."""
    present = _dashboard(connection.application).presence.users()
    return {"dashboards": [attrs.asdict(each) for each in present]}


async def broadcast(connection: Connection, message: Broadcast) -> dict[str, int]:
    """Tell all administrators something."""
    dashboard = _dashboard(connection.application)
    done = await dashboard.broadcast(message.text, connection.user)
    dashboard.acted(connection, "broadcast", {}, done["dashboards"])
    return done


def disconnect(connection: Connection, whom: Disconnect) -> dict[str, int]:
    """Close connections at once."""
    dashboard = _dashboard(connection.application)
    target = _one(connection=whom.connection, user=whom.user)
    met = dashboard.server.disconnect(**target)
    dashboard.acted(connection, "disconnect", target, met)
    return {"disconnected": met}


async def block(connection: Connection, whom: Block) -> dict[str, Any]:
    """Keep a user or a session out, and close their connections."""
    dashboard = _dashboard(connection.application)
    target = _one(user=whom.user, session=whom.session)
    if whom.user == connection.user.id:
        raise Refusal("forbidden", "Who blocks themselves could not lift it again.")
    until = None if whom.for_ms is None else time.time() + whom.for_ms / 1000
    try:
        done = await dashboard.server.block(
            **target, until=until, reason=whom.reason, actor=connection.user.id
        )
    except ValueError as error:
        raise Refusal("invalid_payload", f"{error}.") from None
    except TooManyBlocks as error:
        raise Refusal("too_many_blocks", f"{error}.") from None
    dashboard.acted(connection, "block", {**target, "id": done.block.id}, done.disconnected)
    return {"id": done.block.id, "disconnected": done.disconnected, "stored": done.stored}


async def unblock(connection: Connection, whom: Block) -> dict[str, int]:
    """Lift the blocks of a user or a session."""
    dashboard = _dashboard(connection.application)
    target = _one(user=whom.user, session=whom.session)
    lifted = await dashboard.server.unblock(**target)
    dashboard.acted(connection, "unblock", target, lifted)
    return {"unblocked": lifted}


def _one(**given: str | None) -> dict[str, Any]:
    """The one that is given. Raises `Refusal`."""
    target = {name: value for name, value in given.items() if value is not None}
    if len(target) != 1:
        raise Refusal("invalid_payload", f"Give one of: {', '.join(given)}.")
    return target


# ---------------------------------------------------------------------------- over HTTP


async def verify(request: Request) -> Response:
    """Whether a bearer token is good, and why not."""
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
    """Authentication attempts, newest first, for administrators."""
    await authenticate(request, admin=True)
    try:
        page = msgspec.convert(dict(request.query_params), Page, strict=False)
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_payload", f"{error}.") from None
    found = await _dashboard(request.scope["trioserver.application"]).attempts(page)
    return JSONResponse(found, headers={"Cache-Control": "no-store"})
