"""The public face of a running server. `trioserver.serve` and `trioserver.run` make one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trioserver.app.application import Application, HealthCheck
from trioserver.app.connection import Connection
from trioserver.auth import User, id_if_given
from trioserver.auth.blocks import Block
from trioserver.config import Config
from trioserver.config.extras import MissingExtraError
from trioserver.logs.lines import may_log
from trioserver.server.administration import Administration, BlockResult, id_of
from trioserver.server.components import Components
from trioserver.server.connection_handler import ConnectionHandler
from trioserver.server.context import new_context
from trioserver.server.http_side import HttpSide
from trioserver.server.inspection import ConnectionFilter, ConnectionReport, report
from trioserver.server.operations.listener_manager import ListenerManager
from trioserver.server.operations.reloading import ReconfigureResult, Reloader
from trioserver.server.runner import ServerRunner
from trioserver.storage import Database
from trioserver.telemetry.audit import Auditor
from trioserver.telemetry.metrics.connection_totals import ConnectionTotals
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.metrics.statistics import ServerStatistics
from trioserver.telemetry.observer import AdminAction, AuthAttempt, Observer
from trioserver.telemetry.tracing import Tracing
from trioserver.websocket.listeners import ListenAddress

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log: Final = structlog.get_logger("trioserver")

_TOTALS_STEP: Final = 250
"""Connections that `connection_totals` adds up before other tasks run: some tenths of a ms."""


class Server:
    """A running server, made by `serve`.

    - ``application``: what it serves. ``clock``: returns seconds since the Unix epoch.
    - ``audit``: reads the audit log; None if ``audit.database`` is not set.

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
        clock: Callable[[], float] = time.time,
        load_config: Callable[[], Config] | None = None,
        make_http: Callable[[Server], HttpSide | None] = lambda server: None,
    ) -> None:
        traced = tracer is not None or config.tracing.spans == "on"
        url = config.audit.database
        self.application = application
        self.clock = clock
        self.audit: Auditor | None = None
        self._database = None if url is None else open_database(url)
        if self._database is not None:
            self.audit = Auditor(self._database, config.audit, wall_clock=clock)
        self._make_http = make_http
        self._ended = trio.Event()
        self._context = new_context(
            application,
            config,
            database=self._database,
            observers=observers if self.audit is None else (*observers, self.audit),
            tracing=Tracing(tracer) if traced else None,
            wall_clock=clock,
        )
        self._administration = Administration(
            self._context.registry, self._context.blocks, wall_clock=clock
        )
        self._components = Components(application)
        self._handler = ConnectionHandler(self._context, config)
        self._listeners = ListenerManager()
        self._reloader = Reloader(
            config,
            listeners=self._listeners,
            components=self._components,
            apply=self._handler.reconfigure,
            load_config=load_config,
        )
        self._runner = ServerRunner(
            self._context,
            handler=self._handler,
            listeners=self._listeners,
            reloader=self._reloader,
            components=self._components,
        )

    # -------------------------------------------------------------------------- looking

    @property
    def config(self) -> Config:
        """The configuration that is in force."""
        return self._reloader.config

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where clients can connect; empty until the server listens."""
        return self._listeners.addresses

    @property
    def builtin_addresses(self) -> tuple[ListenAddress, ...]:
        """Where the built-in HTTP routes are, if they have a listener of their own."""
        return self._listeners.builtin_addresses

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All connections that are ready and have not ended, in no order."""
        return tuple(each.facade for each in self._context.registry.ready if not each.has_ended)

    def statistics(self) -> ServerStatistics:
        """Return a snapshot of the server's main numbers."""
        context, admission, memory = self._context, self._context.admission, self._context.memory
        return ServerStatistics(
            open=admission.limiter.open,
            unauthenticated=admission.limiter.unauthenticated,
            ready=context.registry.ready_count,
            http=admission.limiter.http,
            accepted=self._handler.accepted,
            topics=sum(len(part.engine) for part in self.application.parts),
            rejected=dict(context.metrics.rejected),
            closed=dict(context.metrics.closed),
            evicted=admission.limiter.evicted,
            address_bans=admission.addresses.bans,
            banned_addresses=admission.addresses.banned_count(trio.current_time()),
            draining=self._runner.is_draining,
            access_blocks=context.blocks.count,
            memory_bytes=memory.held,
            memory_waiting=memory.waiting,
            memory_closed=memory.evicted,
            audit=None if self.audit is None else self.audit.statistics(),
        )

    def inspect(self, connection: str | Connection) -> ConnectionReport | None:
        """Return a report about a connection; None if it has ended or there is none."""
        found = self._context.registry.get(id_of(connection))
        return None if found is None else report(found)

    def inspect_all(
        self, fitting: ConnectionFilter | None = None, *, limit: int | None = None
    ) -> list[ConnectionReport]:
        """Return reports about connections, ready or not, in the order of their ids.

        ``limit`` is the largest number of reports. To get the next ones, call again with the last
        id as ``after`` of the filter.
        """
        chosen = fitting or ConnectionFilter()
        found = (each for each in self._context.registry.all if chosen.fits(each))
        if limit is None:
            limit = self._context.admission.limiter.open
        return [report(each) for each in nsmallest(limit, found, key=lambda each: each.id)]

    @contextmanager
    def observe(self, observer: Observer) -> Iterator[None]:
        """Tell an observer what happens, until this context manager exits.

        It is told after the observers that were given to `serve`.
        """
        self._context.observers.add(observer)
        try:
            yield
        finally:
            self._context.observers.remove(observer)

    def record_auth_attempt(self, attempt: AuthAttempt) -> None:
        """Report an authentication over HTTP to the observers, the audit among them.

        For what an application verifies itself, such as a password. `trioserver.http.api.
        record_attempt` fills in what is known of the request. The server itself reports bearer
        tokens. Attempts that failed are logged.
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
        self._context.observers.on_auth_attempt(attempt)

    def health_checks(self) -> Mapping[str, HealthCheck]:
        """Return the server's own checks for `/readyz`, by name. A check raises if it fails."""
        checks: dict[str, HealthCheck] = {"blocks": self._context.blocks.check_health}
        if self.audit is not None:
            checks["audit"] = self.audit.check_health
        return checks

    def record_admin_action(self, action: AdminAction) -> None:
        """Report an administrative action to the observers, the audit among them."""
        self._context.observers.on_admin_action(action)

    @property
    def metrics(self) -> MetricsRegistry:
        """The counters and histograms of this server."""
        return self._context.metrics

    def connection_totals_nowait(self) -> ConnectionTotals:
        """Add up all connections at once. Takes about a millisecond per thousand connections."""
        totals = ConnectionTotals(self._context.metrics)
        for connection in self._context.registry.all:
            totals.add(connection)
        return totals

    async def connection_totals(self) -> ConnectionTotals:
        """Add up all connections in steps, between which other tasks run."""
        totals = ConnectionTotals(self._context.metrics)
        for index, connection in enumerate(self._context.registry.all):
            if index % _TOTALS_STEP == 0:
                await trio.lowlevel.checkpoint()
            totals.add(connection)
        return totals

    # -------------------------------------------------------------------------- administration

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
        """Close all connections that match everything given; return how many there were.

        ``user`` is a `User` or an id, ``connection`` a `Connection` or an id. ``resource`` matches
        if all its parameters do.

        Connections that are still authenticating match too. If the user of one is not known yet,
        it is closed as soon as the user is known, and is not counted. So an application that takes
        a right away in its database and then calls this also closes a connection whose authorizer
        was still running. Connections that come later are not affected: see `block`.

        Raises `ValueError` if nothing is given, `TypeError` for arguments of another type.
        """
        return self._administration.disconnect(
            user=user,
            token_id=token_id,
            resource=resource,
            connection=connection,
            code=code,
            message=message,
        )

    async def block(
        self,
        *,
        user: str | User | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        resource: Mapping[str, str] | None = None,
        until: float | None = None,
        reason: str | None = None,
        actor: str | User | None = None,
    ) -> BlockResult:
        """Refuse clients that match everything given from now on, and close their connections.

        - ``user`` and ``actor`` are a `User` or an id. ``token_id`` is a token's ``jti``,
          ``sid`` the ``sid`` claim, ``resource`` path parameters.
        - ``until`` is in seconds since the Unix epoch; None: until `unblock`.

        Clients get ``session_blocked``, or ``token_revoked`` if ``token_id`` is given. With a
        database (``audit.database``), the block is stored when this returns. If the database does
        not answer, the block is stored as soon as it does: see `BlockResult.stored`.

        Cancelling this leaves the block in force. Raises `ValueError` and `TooManyBlocksError`.
        """
        return await self._administration.block(
            user=user,
            token_id=token_id,
            sid=sid,
            resource=resource,
            until=until,
            reason=reason,
            actor=actor,
        )

    async def unblock(
        self,
        id: str | None = None,
        *,
        user: str | User | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        resource: Mapping[str, str] | None = None,
    ) -> int:
        """Lift the block with this ``id``, or the blocks that name exactly what is given.

        Return how many were lifted. Raises `ValueError` if nothing is given. Raises
        `DatabaseUnavailableError` if the database does not answer; then nothing is lifted.
        """
        return await self._administration.unblock(
            id, user=user, token_id=token_id, sid=sid, resource=resource
        )

    def blocked(
        self,
        *,
        user: str | User | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> tuple[Block, ...]:
        """Return the blocks in force, oldest first.

        - ``user``: only the blocks that name this user.
        - ``after`` and ``limit``: one page, of the blocks behind the one with the id ``after``.
          All of them at once takes some 50 ms for 100,000 blocks, during which nothing else runs.
        """
        return self._context.blocks.page(user=id_if_given(user), after=after, limit=limit)

    def is_stored(self, block: Block) -> bool:
        """Whether a block is in the database, so that it survives a restart."""
        return self._context.blocks.is_stored(block)

    def check_blocks(self, user: User) -> None:
        """Raise `Refusal` if a block keeps this user out of everything.

        Blocks that name a resource are not looked at.
        """
        self._context.blocks.check(user)

    # -------------------------------------------------------------------------- operation

    def start_draining(self, reason: str = "shutdown") -> None:
        """Begin to drain, as `drain` does, without waiting."""
        self._runner.start_draining(reason)

    async def drain(self, reason: str = "shutdown") -> None:
        """Stop accepting connections, close those that are open one by one, and end.

        The clients are told to reconnect, each at a moment of its own, spread over
        ``shutdown.drain_period``. ``reason`` is "shutdown" or "restart". Returns when the last
        connection has ended; `serve` returns then too. Cancelling this does not stop the drain.
        """
        self.start_draining(reason)
        await self._ended.wait()

    async def reconfigure(self, config: Config) -> ReconfigureResult:
        """Use another configuration for all that begins from now on, and read certificates again.

        Limits of the whole server change at once. Connections that are open keep the options that
        they began with. Options that need a restart are listed in the result and in the log.
        Raises `ListenError` if a certificate cannot be used. Then, and when this is cancelled,
        nothing changes.
        """
        return await self._reloader.reconfigure(config)

    async def reload(self) -> bool:
        """Load the configuration, certificates and authenticators' files again, as SIGHUP does.

        If one of them cannot be used, the old one stays, and the reason is logged. Return whether
        all of them could.
        """
        return await self._runner.reload()

    # -------------------------------------------------------------------------- running

    async def run(self, *, handle_signals: bool, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled.

        Each part ends before those that were started earlier: connections, background services,
        HTTP, lifespans, and the database last.
        """
        self._context.lines.use()
        async with AsyncExitStack() as stack:
            if self._database is not None:
                await stack.enter_async_context(self._database)
            for lifespan in self._components.lifespans(self):
                await stack.enter_async_context(lifespan)
            http = self._handler.http = self._make_http(self)
            if http is not None:
                await stack.enter_async_context(http.running())
            await self._runner.run(
                [*self._services(), *self._components.services()],
                handle_signals=handle_signals,
                on_ready=partial(task_status.started, self),
            )
        self._ended.set()

    def _services(self) -> Iterator[Callable[..., object]]:
        context = self._context
        yield from (context.lines.run, context.blocks.run, context.memory.run)
        if self.audit is not None:
            yield self.audit.run

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str | None = None) -> None:
        """Serve one open stream until it ends, as if a listener had accepted it.

        ``remote`` is the client's address; None takes it from the socket. Raises nothing but
        `trio.Cancelled`.
        """
        await self._handler.serve_stream(stream, remote=remote)


def open_database(url: str) -> Database:
    """Make the database of audit and blocks, not open yet. Raises `ValueError`."""
    try:
        return Database(url)
    except (MissingExtraError, ValueError) as error:
        raise ValueError(f"audit.database: {error}") from None
