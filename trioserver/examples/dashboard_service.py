"""The service behind the admin dashboard: what it publishes once a second, and its actions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa
import structlog
import trio

from trioserver import (
    AdminAction,
    Application,
    AuditQuery,
    Connection,
    Database,
    DatabaseUnavailableError,
    MailboxFullError,
    Member,
    Observer,
    Presence,
    Refusal,
    Server,
    User,
    traceback_of,
)

INTERVAL: Final = 1.0
"""Seconds between two updates."""

MOST: Final = 100
"""Maximum attempts and connections in one update; of the others, only the number is sent."""

REMEMBER_TIMEOUT: Final = 1.0
"""Seconds that the greeting waits for the database."""

MAX_ADMINS: Final = 200
"""Administrators that a broadcast is stored for: those who connected last."""

ATTEMPTS: Final = ("attempt", "refresh", "suppressed")

metadata: Final = sa.MetaData()

admins: Final = sa.Table(
    "dashboard_admins",
    metadata,
    sa.Column("user_id", sa.String(255), primary_key=True),
    sa.Column("seen_at", sa.Float, nullable=False),
)

log: Final = structlog.get_logger("trioserver")

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Page(msgspec.Struct):
    """The payload of ``list_attempts``; ``before`` is the ``next`` of the previous page."""

    limit: Limit = 100
    before: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None


class Watcher(Observer):
    """Collects the connections that were opened and closed since the last update."""

    def __init__(self) -> None:
        self._ready: set[str] = set()
        self._start()

    def _start(self) -> None:
        self._opened: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._closed: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._count = 0

    def on_ready(self, connection: Connection) -> None:
        self._ready.add(connection.id)
        self._count += 1
        user, route = connection.user.id, connection.route.path
        self._opened.append({"id": connection.id, "user": user, "route": route})

    def on_closed(self, connection: Connection, code: int, reason: str, phases: Any) -> None:
        if connection.id in self._ready:
            self._ready.discard(connection.id)
            self._count += 1
            self._closed.append({"id": connection.id, "code": code, "reason": reason})

    def collect(self) -> dict[str, Any] | None:
        """Return the changes since the last call; ``more`` counts those that were left out."""
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
        """Publish once a second what is subscribed to. Errors are logged, and it goes on."""
        with self.server.observe(self.watcher):
            while True:
                await trio.sleep(INTERVAL)
                try:
                    await self._push()
                except DatabaseUnavailableError as error:
                    log.warning("dashboard_unavailable", category=error.category)
                except Exception as error:
                    log.error("dashboard_failed", traceback=traceback_of(error))

    async def _push(self) -> None:
        now = time.time()
        watched = {topic for each in self.presence.connections() for topic in each.topics}
        change = self.watcher.collect()
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
                self.application.publish("attempts", entry.as_json())

    async def figures(self) -> dict[str, Any]:
        """Return the numbers of a ``stats_update``."""
        totals = await self.server.connection_totals()
        now = self.server.statistics()
        return {
            "connections": now.open,
            "unauthenticated": now.unauthenticated,
            "ready": now.ready,
            "users": len({connection.user.id for connection in self.server.connections}),
            "accepted": now.accepted,
            "refused": dict(now.rejected),
            "messages_in": totals.messages_received,
            "messages_out": totals.messages_sent,
            "uptime_s": round(trio.current_time() - self._started, 3),
            "at": time.time(),
        }

    # ------------------------------------------------------------------------ what is asked for

    async def attempts(self, page: Page) -> dict[str, Any]:
        """Return authentication attempts, newest first. Raises `Refusal`."""
        if self.server.audit is None:
            message = "There is no audit log: the option audit.database is not set."
            raise Refusal("not_found", message)
        found = await self.server.audit.query(
            AuditQuery(kind=ATTEMPTS, before=page.before, limit=page.limit)
        )
        return {"attempts": [entry.as_json() for entry in found.entries], "next": found.next}

    async def broadcast(self, text: str, user: User) -> dict[str, int]:
        """Send a text to all dashboards, and store it for administrators who have none open."""
        said = {"text": text, "from": user.id, "at": time.time()}
        query = sa.select(admins.c.user_id).order_by(admins.c.seen_at.desc()).limit(MAX_ADMINS)
        known = await self.database.read(lambda connection: connection.scalars(query).all())
        hearing = [each for each in self.presence.connections() if "broadcast" in each.topics]
        away = set(known) - {each.user.id for each in hearing}
        self.application.publish("broadcast", said)
        kept = 0
        with suppress(MailboxFullError):  # the answer says for how many it is kept
            for each in away:
                await self.application.mailbox.send(each, "broadcast", said)
                kept += 1
        return {"dashboards": len(hearing), "kept_for": kept}

    async def remember(self, user: str) -> None:
        """Store that the administrator was connected, unless the database does not answer."""
        if user in self._known:
            return

        def replace(connection: sa.Connection) -> None:
            connection.execute(admins.delete().where(admins.c.user_id == user))
            connection.execute(admins.insert().values(user_id=user, seen_at=time.time()))

        with suppress(DatabaseUnavailableError):
            await self.database.run(replace, timeout=REMEMBER_TIMEOUT)
            self._known.add(user)

    def record_action(
        self, connection: Connection, name: str, target: Mapping[str, Any], number: int
    ) -> None:
        """Record an action of an administrator in the audit."""
        self.server.record_admin_action(
            AdminAction(
                actor=connection.user.id,
                name=name,
                target={key: str(value) for key, value in target.items()},
                affected=number,
                remote=connection.request.remote,
                path=connection.route.path,
                token_id=connection.user.token_id,
            )
        )


def tell_stats(connection: Member, figures: Mapping[str, Any]) -> None:
    """Send the figures. The server closes a dashboard that does not read them."""
    with suppress(trio.ClosedResourceError):
        connection.send_nowait("stats_update", figures)
