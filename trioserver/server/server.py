"""The server: listeners, connections, and how they come to their end."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from protocol import Disconnect
from trioserver.app.application import Application, HealthCheck
from trioserver.app.connection import Connection
from trioserver.auth import Component, User, id_if_given
from trioserver.auth.blocks import Block, Blocks
from trioserver.auth.component import overrides
from trioserver.config import Config
from trioserver.config.extras import MissingExtra
from trioserver.logs.lines import LineLimiter, may_log
from trioserver.server.connection_handler import ConnectionHandler
from trioserver.server.http_side import HttpSide
from trioserver.server.inspection import ConnectionFilter, ConnectionReport, report
from trioserver.server.operations.listener_manager import ListenerManager
from trioserver.server.operations.reloading import ReconfigureResult, Reloader
from trioserver.server.registry import Registry
from trioserver.server.runner import ServerRunner
from trioserver.storage import Database
from trioserver.telemetry.audit import Auditor
from trioserver.telemetry.counts import Counts
from trioserver.telemetry.metrics.census import Census
from trioserver.telemetry.metrics.measurements import Measurements
from trioserver.telemetry.metrics.statistics import ServerStatistics
from trioserver.telemetry.observer import AdminAction, AuthAttempt, Observer, Observers
from trioserver.telemetry.tracing import Tracing
from trioserver.websocket.listeners import ListenAddress
from trioserver.websocket.poller import make_poller

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log: Final = structlog.get_logger("trioserver")

_CENSUS_STEP: Final = 250
"""Connections that are looked at before others get their turn: some tenths of a millisecond."""


@attrs.frozen(kw_only=True)
class BlockResult:
    """What `Server.block` did. ``disconnected`` counts connections; ``stored``: it survives a
    restart.
    """

    block: Block
    disconnected: int
    stored: bool


class Server:
    """A running server, made by `serve`.

    ``make_http`` makes the HTTP side once the application has started; it may return None, and
    what it raises ends the start. Without it the server speaks WebSocket only.
    """

    def __init__(
        self,
        application: Application,
        config: Config,
        *,
        observers: Iterable[Observer] = (),
        tracer: Tracer | None = None,
        wall_clock: Callable[[], float] = time.time,
        load_config: Callable[[], Config] | None = None,
        make_http: Callable[[Server], HttpSide | None] = lambda server: None,
    ) -> None:
        traced = tracer is not None or config.tracing.spans == "on"
        self.application = application
        self._registry = Registry()
        self.wall_clock = wall_clock
        self._poller = make_poller()
        url = config.audit.database
        self._database = None if url is None else open_database(url)
        self._blocks = Blocks(
            self._database,
            refresh=config.audit.block_refresh_interval,
            enforce=self._enforce,
            wall_clock=wall_clock,
        )
        self.audit: Auditor | None = None
        if self._database is not None:
            self.audit = Auditor(self._database, config.audit, wall_clock=wall_clock)
            observers = [*observers, self.audit]
        self._counts = Counts()
        self._observer = Observers([self._counts, *observers])
        self._lines = LineLimiter(config.log.lines_per_source, config.log.lines_per_second)
        self._handler = ConnectionHandler(
            application,
            config,
            lines=self._lines,
            registry=self._registry,
            blocks=self._blocks,
            poller=self._poller,
            counts=self._counts,
            observer=self._observer,
            tracing=Tracing(tracer) if traced else None,
            wall_clock=wall_clock,
        )
        self._listening = ListenerManager()
        self._reloader = Reloader(
            config,
            listening=self._listening,
            parts=self._parts,
            apply=self._apply,
            load_config=load_config,
        )
        self._runner = ServerRunner(
            application,
            handler=self._handler,
            listening=self._listening,
            reloader=self._reloader,
            registry=self._registry,
            counts=self._counts,
            poller=self._poller,
            parts=self._parts,
            services=self._services,
            make_http=partial(make_http, self),
            lifespan_of=self._lifespan_of,
        )

    def _apply(self, config: Config) -> None:
        """What counts at once."""
        self._lines.reconfigure(config.log.lines_per_source, config.log.lines_per_second)
        self._handler.reconfigure(config)

    def _lifespan_of(self, part: Application) -> AbstractAsyncContextManager[None] | None:
        """With the server, where the function takes it."""
        if part.lifespan is None:
            return None
        parameters = inspect.signature(part.lifespan).parameters.values()
        wanted = [each for each in parameters if each.default is inspect.Parameter.empty]
        return part.lifespan(part) if len(wanted) == 1 else part.lifespan(part, self)

    def _parts(self) -> list[Any]:
        """Authenticators, authorizers and the like, each once."""
        return list({id(part): part for _, part in self.application.components()}.values())

    def _services(self) -> list[Callable[..., Any]]:
        """Their background work, and the server's own."""
        ours: list[Callable[..., Any]] = [
            self._lines.run,
            self._blocks.run,
            self._handler.memory.run,
        ]
        if self.audit is not None:
            ours.append(self.audit.run)
        parts = self._parts()
        _warn_of_look_alikes(parts)
        return [*ours, *(part.run for part in parts if overrides(part, "run"))]

    # -------------------------------------------------------------------------- what it offers

    @property
    def config(self) -> Config:
        """The configuration that is in force."""
        return self._reloader.config

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where it can be reached; empty before it listens."""
        return self._listening.addresses

    @property
    def builtin_addresses(self) -> tuple[ListenAddress, ...]:
        """Where the built-in routes are, if they have a listener of their own."""
        return self._listening.builtin_addresses

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All that are ready and have not ended, in no order."""
        return tuple(each.facade for each in self._registry.ready if not each.has_ended)

    def statistics(self) -> ServerStatistics:
        """How it stands at this moment."""
        door, admission = self._handler, self._handler.admission
        return ServerStatistics(
            open=admission.limiter.open,
            unauthenticated=admission.limiter.unauthenticated,
            ready=self._registry.ready_count,
            http=admission.limiter.http,
            accepted=door.accepted,
            topics=sum(len(part.engine) for part in self.application.parts),
            rejected=dict(self._counts.rejected),
            closed=dict(self._counts.closed),
            evicted=admission.limiter.evicted,
            address_bans=admission.addresses.blocks,
            banned_addresses=admission.addresses.blocked_count(trio.current_time()),
            draining=self._runner.is_draining,
            access_blocks=self._blocks.count,
            memory_bytes=door.memory.held,
            memory_waiting=door.memory.waiting,
            memory_closed=door.memory.evicted,
            audit=None if self.audit is None else self.audit.statistics(),
        )

    def inspect(self, connection: str | Connection) -> ConnectionReport | None:
        """How the connection with this id stands; None where there is none."""
        found = self._registry.get(_id_of(connection))
        return None if found is None else report(found)

    def inspect_all(
        self, fitting: ConnectionFilter | None = None, *, limit: int | None = None
    ) -> list[ConnectionReport]:
        """How connections stand, also those that are not ready, in the order of their ids.

        ``limit``: no more than these; the next come with the last one's id as ``after``.
        """
        chosen = fitting or ConnectionFilter()
        found = (each for each in self._registry.all if chosen.fits(each))
        if limit is None:
            limit = self._handler.admission.limiter.open
        return [report(each) for each in nsmallest(limit, found, key=lambda each: each.id)]

    @contextmanager
    def observe(self, observer: Observer) -> Iterator[None]:
        """Tell an observer what happens, for as long as this is open; after those of `serve`."""
        self._observer.add(observer)
        try:
            yield
        finally:
            self._observer.remove(observer)

    def record_auth_attempt(self, attempt: AuthAttempt) -> None:
        """Tell the observers, the audit among them, of an authentication over HTTP.

        For what an application verifies itself, as a password: `trioserver.http.api.record_attempt`
        fills in what is known of a request. Bearer tokens are recorded by the server. The log has
        the attempts that failed.
        """
        if attempt.code is not None and may_log("authentication_failed", attempt.remote):
            log.info(
                "authentication_failed",
                method=attempt.method,
                reason=attempt.code,
                user=attempt.user,
                remote=attempt.remote,
                path=attempt.path,
                token=attempt.token,
            )
        self._handler.admission.on_auth_attempt(attempt)
        self._observer.on_auth_attempt(attempt)

    def health_checks(self) -> Mapping[str, HealthCheck]:
        """The server's own, for `/readyz`: each raises while what it is named after fails."""
        checks: dict[str, HealthCheck] = {"blocks": self._blocks.check_health}
        if self.audit is not None:
            checks["audit"] = self.audit.check_health
        return checks

    def record_admin_action(self, action: AdminAction) -> None:
        """Report an administrative action to the observers, the audit among them."""
        self._observer.on_admin_action(action)

    def measurements(self) -> Measurements:
        """All numbers, in one go: about a millisecond for each thousand connections."""
        census = Census(self._counts)
        for connection in self._registry.all:
            census.take(connection)
        return Measurements(counts=self._counts, census=census, statistics=self.statistics())

    async def measure(self) -> Measurements:
        """All numbers, in steps that hold nobody up. Cancelling this changes nothing."""
        census, connections = Census(self._counts), self._registry.all
        for index, connection in enumerate(connections):
            if index % _CENSUS_STEP == 0:
                await trio.lowlevel.checkpoint()
            census.take(connection)
        return Measurements(counts=self._counts, census=census, statistics=self.statistics())

    def disconnect(
        self,
        *,
        user: str | User | None = None,
        token_id: str | None = None,
        resource: Mapping[str, str] | None = None,
        connection: str | Connection | None = None,
        code: str = "disconnected",
        message: str | None = None,
    ) -> int:
        """Close at once all connections that match everything given; returns how many.

        ``user`` is a `User` or an id, ``connection`` a `Connection` or an id. ``resource`` matches
        when all its parameters do.

        Connections that are being verified match as well, so whoever withdraws a right in a
        database and then calls this keeps out a connection whose authorizer was on its way. Where
        it is not known yet who that is, the connection is closed as soon as it is known; such are
        not counted. Connections that come later are not affected: see `block`.

        Raises `ValueError` when nothing is given, `TypeError` for what is neither.
        """
        if user is None and token_id is None and resource is None and connection is None:
            raise ValueError("say whom to disconnect: user, token_id, resource or connection")
        user, connection = id_if_given(user), _id_if_given(connection)
        matching = self._registry.matching(
            user=user, token_id=token_id, resource=resource, connection=connection
        )
        if connection is None and (user is not None or token_id is not None):
            self._blocks.withdrawals.add(
                user=user,
                token_id=token_id,
                resource=resource,
                refusal=Disconnect(code, message),
            )
        for candidate in matching:
            candidate.disconnect(code, message)
        return len(matching)

    async def block(
        self,
        *,
        user: str | User | None = None,
        token_id: str | None = None,
        session: str | None = None,
        resource: Mapping[str, str] | None = None,
        until: float | None = None,
        reason: str | None = None,
        actor: str | User | None = None,
    ) -> BlockResult:
        """Keep out whoever fits everything given, from now on, and close their connections.

        ``user`` and ``actor`` are a `User` or an id. ``token_id`` is a token's ``jti``,
        ``session`` the ``sid`` claim, ``resource`` path parameters. ``until`` is in seconds since
        the Unix epoch, None until `unblock`. With a database (``audit.database``) it is stored when
        this returns, or, where the database is away, as soon as that is back: ``stored`` says.
        Clients get ``session_blocked``, or ``token_revoked`` where a token id is given.

        Cancelling this leaves the block in force. Raises `ValueError`, and `TooManyBlocksError`.
        """
        block = Block(
            user=id_if_given(user),
            token_id=token_id,
            session=session,
            resource=resource,
            until=until,
            reason=reason,
            actor=id_if_given(actor),
            created_at=self.wall_clock(),
        )
        met = await self._blocks.add(block)
        return BlockResult(block=block, disconnected=met, stored=self._blocks.is_stored(block))

    async def unblock(
        self,
        id: str | None = None,
        *,
        user: str | User | None = None,
        token_id: str | None = None,
        session: str | None = None,
        resource: Mapping[str, str] | None = None,
    ) -> int:
        """Lift the block with this ``id``, or those that name exactly what is given; how many.

        Raises `ValueError` when nothing is given. Raises `DatabaseUnavailableError`, and then
        nothing is lifted.
        """
        target = {
            "user": id_if_given(user),
            "token_id": token_id,
            "session": session,
            "resource": resource,
        }
        given = {name: value for name, value in target.items() if value is not None}
        if id is None and not given:
            raise ValueError("say what to lift: id, user, token_id, session or resource")
        return await self._blocks.remove(
            block
            for block in self.blocked()
            if id in (None, block.id) and given in ({}, block.target)
        )

    def blocked(self) -> tuple[Block, ...]:
        """The blocks in force, oldest first."""
        return self._blocks.all

    def is_stored(self, block: Block) -> bool:
        """Return whether a block survives a restart."""
        return self._blocks.is_stored(block)

    def check_blocks(self, user: User) -> None:
        """Raise `Refusal` if a block applies to this user, whatever the session or resource."""
        self._blocks.check(user)

    def _enforce(self, block: Block) -> int:
        refusal = block.refusal
        met = self._registry.fitting(block)
        for connection in met:
            connection.disconnect(refusal.code)
        return len(met)

    def start_draining(self, reason: str = "shutdown") -> None:
        """Begin what `drain` does, and do not wait for it."""
        self._runner.start_draining(reason)

    async def drain(self, reason: str = "shutdown") -> None:
        """Stop accepting, send everybody away in slots spread over the drain period, and end.

        ``reason``: "shutdown" or "restart". Returns when the last connection has ended; `serve`
        returns then too. Cancelling this does not stop the draining.
        """
        self.start_draining(reason)
        await self._runner.wait_drained()

    async def reconfigure(self, config: Config) -> ReconfigureResult:
        """Use another configuration for all that begins from now on, and read certificates anew.

        Limits of the whole server count at once; connections that are open keep what they began
        with. What needs a restart is named in what is returned, and in a line of the log. Raises
        `ListenError` for certificates that do not do; then, and when cancelled, nothing changes.
        """
        return await self._reloader.reconfigure(config)

    async def reload(self) -> bool:
        """What SIGHUP does: configuration, certificates, and the files of authenticators.

        Each that does not do is refused with a line of the log, and the old one stays. Returns
        whether all did.
        """
        return await self._runner.reload()

    # -------------------------------------------------------------------------- running

    async def run(self, *, handle_signals: bool, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled."""
        self._lines.use()
        async with AsyncExitStack() as stack:
            if self._database is not None:
                await stack.enter_async_context(self._database)
            await self._runner.run(
                handle_signals=handle_signals, on_ready=partial(task_status.started, self)
            )

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str | None = None) -> None:
        """Serve one stream that is open already, to its end; what listeners accept comes here.

        Raises nothing but `trio.Cancelled`. ``remote`` is taken from a socket where not given.
        """
        await self._handler.serve_stream(stream, remote=remote)


def _warn_of_look_alikes(parts: Iterable[object]) -> None:
    """Name what looks like a `Component` and is none: its background work is not started."""
    for part in parts:
        run = None if isinstance(part, Component) else getattr(type(part), "run", None)
        if inspect.iscoroutinefunction(run) and "task_status" in inspect.signature(run).parameters:
            log.warning(
                "not_a_component",
                part=type(part).__qualname__,
                hint="its run(*, task_status) is not called: derive the class from "
                "trioserver.Component",
            )


def _id_of(connection: str | Connection) -> str:
    if isinstance(connection, Connection):
        return connection.id
    if isinstance(connection, str):
        return connection
    kind = type(connection).__name__
    raise TypeError(f"a connection is a Connection or its id, a str; this is a {kind}")


def _id_if_given(connection: str | Connection | None) -> str | None:
    return None if connection is None else _id_of(connection)


def open_database(url: str) -> Database:
    """The database of audit and blocks, not open yet. Raises `ValueError` with what to do."""
    try:
        return Database(url)
    except (MissingExtra, ValueError) as error:
        raise ValueError(f"audit.database: {error}") from None
