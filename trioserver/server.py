"""The server: listeners, connections, and how they come to their end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from protocol import Refusal
from trioserver.application import Application
from trioserver.audit import Auditor, AuditStatistics
from trioserver.blocks import Block, Blocks
from trioserver.census import Census
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.counts import Counts
from trioserver.draining import send_away
from trioserver.front_door import FrontDoor
from trioserver.garbage import collect_seldom
from trioserver.handlers import unwrap
from trioserver.inspection import ConnectionFilter, ConnectionReport, report
from trioserver.listening import Listening, passed_sockets
from trioserver.measurements import Measurements
from trioserver.observer import Act, Observer, Observers
from trioserver.registry import Registry
from trioserver.reloading import Reconfigured, compare, keep_what_is_read_at_start
from trioserver.storage import Database
from trioserver.systemd import Manager
from trioserver.tracing import Tracing
from trioserver.websocket.errors import CannotListen
from trioserver.websocket.listeners import Address
from trioserver.websocket.readiness import make_readiness

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from trioserver.http.service import HttpService

log: Final = structlog.get_logger("trioserver")

_DRAIN: Final = {signal.SIGTERM: "shutdown", signal.SIGINT: "shutdown"}
"""Signals that drain, and the reason that clients are told."""

_RELOAD: Final[list[signal.Signals]] = []

if sys.platform != "win32":
    _DRAIN[signal.SIGUSR2] = "restart"
    _RELOAD.append(signal.SIGHUP)

_RELOAD_TIMEOUT: Final = 60.0
"""Seconds until a reload is given up; files may be where nothing answers."""

_GRACE: Final = 10.0
"""Seconds for the application to end, beyond those of its connections, until systemd ends it."""

_CENSUS_STEP: Final = 250
"""Connections that are looked at before others get their turn: some tenths of a millisecond."""


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot. ``refused`` counts refusals by code since the start.

    ``open`` are all connections, ``http`` those of them on which HTTP is spoken. ``evicted`` counts
    those who were not authenticated and had to give way, ``address_blocks`` how often an address
    was blocked; ``blocked_addresses`` are blocked now. ``blocks`` are those of users, sessions,
    tokens and resources; ``audit`` is None where nothing is recorded.
    """

    open: int
    unauthenticated: int
    ready: int
    http: int
    accepted: int
    topics: int
    refused: Mapping[str, int]
    evicted: int
    address_blocks: int
    blocked_addresses: int
    draining: bool
    blocks: int = 0
    audit: AuditStatistics | None = None


@attrs.frozen(kw_only=True)
class Blocked:
    """What `Server.block` did. ``disconnected`` counts connections; ``stored``: it survives a
    restart.
    """

    block: Block
    disconnected: int
    stored: bool


class Server:
    """A running server. `serve` makes it; ``addresses`` says where it is.

    ``builtin_addresses`` is where the built-in routes are, if they have a listener of their own.
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
    ) -> None:
        traced = tracer is not None or config.tracing.spans == "on"
        self.application = application
        self.config = config
        self.addresses: tuple[Address, ...] = ()
        self._readiness = make_readiness()
        self._registry = Registry()
        self._wall_clock = wall_clock
        url = config.audit.database
        self._database = None if url is None else open_database(url)
        self._blocks = Blocks(
            self._database,
            refresh=config.audit.block_refresh,
            enforce=self._enforce,
            wall_clock=wall_clock,
        )
        self.audit: Auditor | None = None
        if self._database is not None:
            self.audit = Auditor(self._database, config.audit, wall_clock=wall_clock)
            observers = [*observers, self.audit]
        self._counts = Counts()
        self._observer = Observers([self._counts, *observers])
        self._front_door = FrontDoor(
            application,
            config,
            registry=self._registry,
            blocks=self._blocks,
            readiness=self._readiness,
            counts=self._counts,
            observer=self._observer,
            tracing=Tracing(tracer) if traced else None,
            wall_clock=wall_clock,
        )
        self.builtin_addresses: tuple[Address, ...] = ()
        self._http: HttpService | None = None
        self._listening, self._builtin = Listening(), Listening()
        self._manager = Manager()
        self._load_config = load_config
        self._reconfiguring = trio.Lock()
        self._reload_requested = trio.Event()
        self._drain_requested = trio.Event()
        self._drain_reason = "shutdown"
        self._drained = trio.Event()

    # -------------------------------------------------------------------------- what it offers

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All that are ready, in no order."""
        return self._registry.ready

    def statistics(self) -> ServerStatistics:
        """How it stands at this moment."""
        door, gate = self._front_door, self._front_door.gate
        return ServerStatistics(
            open=gate.admission.open,
            unauthenticated=gate.admission.unauthenticated,
            ready=self._registry.ready_count,
            http=0 if self._http is None else self._http.open,
            accepted=door.accepted,
            topics=sum(len(part.engine) for part in self.application.parts),
            refused=dict(gate.refused),
            evicted=gate.admission.evicted,
            address_blocks=gate.conduct.blocks,
            blocked_addresses=gate.conduct.blocked_count(trio.current_time()),
            draining=self._drain_requested.is_set(),
            blocks=len(self._blocks.all),
            audit=None if self.audit is None else self.audit.statistics(),
        )

    def inspect(self, connection: str) -> ConnectionReport | None:
        """How the connection with this id stands; None where there is none."""
        found = self._registry.get(connection)
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
            limit = self._front_door.gate.admission.open
        return [report(each) for each in nsmallest(limit, found, key=lambda each: each.id)]

    def administered(self, act: Act) -> None:
        """Tell the observers, the audit among them, of an administrative act."""
        self._observer.administered(act)

    def measurements(self) -> Measurements:
        """All numbers, in one go: about a millisecond for each thousand connections."""
        census = Census(self._counts)
        for connection in self._registry.all:
            census.take(connection)
        return self._measurements(census)

    async def measure(self) -> Measurements:
        """All numbers, in steps that hold nobody up. Cancelling this changes nothing."""
        census, connections = Census(self._counts), self._registry.all
        for index, connection in enumerate(connections):
            if index % _CENSUS_STEP == 0:
                await trio.lowlevel.checkpoint()
            census.take(connection)
        return self._measurements(census)

    def _measurements(self, census: Census) -> Measurements:
        statistics = self.statistics()
        return Measurements(
            counts=self._counts,
            census=census,
            accepted=statistics.accepted,
            evicted=statistics.evicted,
            open=statistics.open,
            topics=statistics.topics,
            draining=statistics.draining,
            drain_left=statistics.ready if statistics.draining else 0,
        )

    def disconnect(
        self,
        *,
        user: str | None = None,
        token_id: str | None = None,
        resource: Mapping[str, str] | None = None,
        connection: str | None = None,
        code: str = "disconnected",
        message: str | None = None,
    ) -> int:
        """Close at once all connections that match everything given; returns how many.

        ``resource`` matches when all its parameters do. Connections whose ownership is still being
        verified are met as well. Raises `ValueError` when nothing is given.
        """
        if user is None and token_id is None and resource is None and connection is None:
            raise ValueError("say whom to disconnect: user, token_id, resource or connection")
        matching = self._registry.matching(
            user=user, token_id=token_id, resource=resource, connection=connection
        )
        for candidate in matching:
            candidate.disconnect(code, message)
        return len(matching)

    async def block(
        self,
        *,
        user: str | None = None,
        token_id: str | None = None,
        session: str | None = None,
        resource: Mapping[str, str] | None = None,
        until: float | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Blocked:
        """Keep out whoever fits everything given, from now on, and close their connections.

        ``token_id`` is a token's ``jti``, ``session`` the ``sid`` claim, ``resource`` path
        parameters. ``until`` is in seconds since the Unix epoch, None until `unblock`. With a
        database (``audit.database``) it is stored when this returns, or, where the database is
        away, as soon as that is back: ``stored`` says. Clients get ``session_blocked``, or
        ``token_revoked`` where a token id is given.

        Cancelling this leaves the block in force. Raises `ValueError`, and `TooManyBlocks`.
        """
        block = Block(
            user=user,
            token_id=token_id,
            session=session,
            resource=resource,
            until=until,
            reason=reason,
            actor=actor,
            created_at=self._wall_clock(),
        )
        met = await self._blocks.add(block)
        return Blocked(block=block, disconnected=met, stored=self._blocks.is_stored(block))

    async def unblock(
        self,
        id: str | None = None,
        *,
        user: str | None = None,
        token_id: str | None = None,
        session: str | None = None,
        resource: Mapping[str, str] | None = None,
    ) -> int:
        """Lift the block with this ``id``, or those that name exactly what is given; how many.

        Raises `ValueError` when nothing is given. Raises `DatabaseUnavailable`, and then nothing
        is lifted.
        """
        target = {"user": user, "token_id": token_id, "session": session, "resource": resource}
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

    def _enforce(self, block: Block) -> int:
        refusal = block.refusal
        met = self._registry.fitting(block)
        for connection in met:
            connection.disconnect(refusal.code)
        return len(met)

    def start_draining(self, reason: str = "shutdown") -> None:
        """Begin what `drain` does, and do not wait for it."""
        if not self._drain_requested.is_set():
            self._drain_reason = reason
            self._drain_requested.set()

    async def drain(self, reason: str = "shutdown") -> None:
        """Stop accepting, send everybody away in slots spread over the drain period, and end.

        ``reason``: "shutdown" or "restart". Returns when the last connection has ended; `serve`
        returns then too. Cancelling this does not stop the draining.
        """
        self.start_draining(reason)
        await self._drained.wait()

    # -------------------------------------------------------------------------- other options

    async def reconfigure(self, config: Config) -> Reconfigured:
        """Use another configuration for all that begins from now on, and read certificates anew.

        Limits of the whole server count at once; connections that are open keep what they began
        with. What needs a restart is named in what is returned, and in a line of the log. Raises
        `CannotListen` for certificates that do not do; then, and when cancelled, nothing changes.
        """
        async with self._reconfiguring:
            keys = await self._listening.load_keys(config.listeners)
            builtin_keys = await self._builtin.load_keys(self.config.http.listeners)
            outcome = compare(self.config, config)
            keys.use()
            builtin_keys.use()
            self.config = keep_what_is_read_at_start(self.config, config)
            self._front_door.reconfigure(self.config)
        log.info("reconfigured", changed=outcome.changed, needs_restart=list(outcome.needs_restart))
        return outcome

    async def reload(self) -> bool:
        """What SIGHUP does: configuration, certificates, and the files of authenticators.

        Each that does not do is refused with a line of the log, and the old one stays. Returns
        whether all did.
        """
        self._manager.reloading()
        good = await self._reload(self._reload_config)
        for part in self._parts():
            if hasattr(part, "reload"):
                good &= await self._reload(partial(self._reload_part, part))
        self._manager.ready(self._status())
        return good

    async def _reload(self, attempt: Callable[[], Awaitable[object]]) -> bool:
        try:
            with trio.fail_after(_RELOAD_TIMEOUT):
                await attempt()
        except Exception as error:
            known = isinstance(error, ValueError | CannotListen)  # made to be read, no secrets
            log.error("reload_refused", reason=str(error) if known else type(error).__name__)
            return False
        return True

    async def _reload_config(self) -> None:
        config = self.config
        if self._load_config is not None:
            config = await trio.to_thread.run_sync(self._load_config, abandon_on_cancel=True)
        await self.reconfigure(config)

    async def _reload_part(self, part: Any) -> None:
        changed = await trio.to_thread.run_sync(part.reload, abandon_on_cancel=True)
        log.info("keys_reloaded", authenticator=type(part).__name__, changed=changed)

    # -------------------------------------------------------------------------- running

    async def run(self, *, handle_signals: bool, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled. Nesting is the order of the end."""
        async with AsyncExitStack() as lifespans:
            if self._database is not None:
                await lifespans.enter_async_context(self._database)
            for part in self.application.parts:
                if part.lifespan is not None:
                    await lifespans.enter_async_context(part.lifespan(part))
            self._http = self._front_door.http = self._make_http()
            if self._http is not None:
                await lifespans.enter_async_context(self._http.running())
            await self._run_services(handle_signals=handle_signals, task_status=task_status)
        self._drained.set()

    async def _run_services(
        self, *, handle_signals: bool, task_status: trio.TaskStatus[Server]
    ) -> None:
        async with trio.open_nursery() as services:
            if self._readiness is not None:
                services.start_soon(self._readiness.run)
            for service in self._services():
                await services.start(service)
            try:
                await self._listen()
                services.start_soon(self._watch_certificates)
                async with trio.open_nursery() as connections:
                    if handle_signals:
                        self._manager = Manager.of()
                        services.start_soon(self._manager.run)
                        services.start_soon(collect_seldom)
                        connections.start_soon(self._reload_on_request)
                        await connections.start(self._watch_signals, services.cancel_scope)
                    # To the very end: whoever asks /readyz shall hear that it is draining.
                    self._accept_on(self._builtin, connections, connections)
                    await self._accept(connections, task_status)
                    await self._empty()
                    connections.cancel_scope.cancel()
            finally:
                for each in (self._listening, self._builtin):
                    await each.close()
                    await each.remove_files()
            services.cancel_scope.cancel()

    def _make_http(self) -> HttpService | None:
        """The HTTP side, where it is installed and has something to answer. `ImportError`."""
        config, parts = self.config.http, self.application.parts
        wanted = any(part.http is not None for part in parts) or config.builtin_listen is not None
        try:
            from trioserver.http.admin import admin_app
            from trioserver.http.service import HttpService
            from trioserver.metrics.endpoint import metrics_endpoint
        except ImportError as error:
            if wanted:
                raise ImportError(
                    "HTTP needs Hypercorn and Starlette: pip install 'trioserver[http]'"
                ) from error
            log.info("http_off", meaning="for /healthz and more: pip install 'trioserver[http]'")
            return None
        if not (wanted or config.health or config.metrics or config.admin or config.protocol):
            return None
        return HttpService(self, metrics=metrics_endpoint(self), admin=admin_app(self))

    async def _listen(self) -> None:
        with passed_sockets() as passed:
            await self._listening.open(self.config.listeners, passed)
            await self._builtin.open(self.config.http.listeners, passed)
        self.addresses = self._listening.addresses
        self.builtin_addresses = self._builtin.addresses
        for route in self.application.routes:
            check = getattr(route.auth, "check_addresses", None)
            if check is not None:
                check([str(address) for address in self.addresses])

    async def _accept(
        self, connections: trio.Nursery, task_status: trio.TaskStatus[Server]
    ) -> None:
        async with trio.open_nursery() as accepting:
            self._accept_on(self._listening, accepting, connections)
            log.info("listening", addresses=[address.url for address in self.addresses])
            task_status.started(self)
            self._manager.ready(self._status())
            await self._drain_requested.wait()
            self._front_door.closed_for = Refusal(self._drain_reason)
            self._say_stopping()
            accepting.cancel_scope.cancel()
        await self._listening.close()

    def _status(self) -> str:
        return "listening on " + " ".join(address.url for address in self.addresses)

    def _say_stopping(self) -> None:
        shutdown = self.config.shutdown
        within = shutdown.drain_period + shutdown.close_timeout + _GRACE
        number = self._registry.ready_count
        self._manager.stopping(f"sending {number} clients away", within=within)

    def _parts(self) -> list[Any]:
        """Authenticators, owner checks and the like, each once."""
        parts: list[object] = [part._mailbox for part in self.application.parts]
        for route in self.application.routes:
            parts += (route.auth, route.owner, route._presence)
        return list({id(part): part for part in parts}.values())

    def _accept_on(
        self, listening: Listening, accepting: trio.Nursery, connections: trio.Nursery
    ) -> None:
        for listener in listening.listeners:
            serve = partial(
                self._front_door.serve_stream,
                proxied=listener in listening.proxied,
                builtin=listening is self._builtin,
            )
            accepting.start_soon(
                partial(trio.serve_listeners, serve, [listener], handler_nursery=connections)
            )

    def _services(self) -> list[Callable[..., Any]]:
        """Their background work, and the server's own."""
        runs = (getattr(part, "run", None) for part in self._parts())
        ours = [self._blocks.run] if self.audit is None else [self._blocks.run, self.audit.run]
        return [*ours, *(run for run in runs if run is not None)]

    async def _watch_signals(
        self, everything: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        """The first signal that drains does so, the second ends at once."""
        with trio.open_signal_receiver(*_DRAIN, *_RELOAD) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if number in _RELOAD:
                    self._reload_requested.set()
                elif self._drain_requested.is_set():
                    log.warning("ending_at_once", signal=name)
                    everything.cancel()
                else:
                    log.info("draining", signal=name, seconds=self.config.shutdown.drain_period)
                    self._drain_reason = _DRAIN[signal.Signals(number)]
                    self._drain_requested.set()

    async def _reload_on_request(self) -> None:
        """In a task of its own: signals that end the server do not wait for files."""
        while True:
            await self._reload_requested.wait()
            self._reload_requested = trio.Event()
            if not self._drain_requested.is_set():
                await self.reload()

    async def _watch_certificates(self) -> None:
        while True:
            await trio.sleep(self.config.tls.check_interval)
            await self._listening.refresh_keys()
            await self._builtin.refresh_keys()

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str | None = None) -> None:
        """Serve one stream that is open already, to its end; what listeners accept comes here.

        Raises nothing but `trio.Cancelled`. ``remote`` is taken from a socket where not given.
        """
        await self._front_door.serve_stream(stream, remote=remote)

    async def _empty(self) -> None:
        """Send everybody away, and wait until the last one has gone."""
        for connection in self._registry.waiting:
            connection.disconnect(self._drain_reason)
        period = self.config.shutdown.drain_period
        self._counts.drain_total = self._registry.ready_count
        async with trio.open_nursery() as nursery:
            if self._http is not None:
                nursery.start_soon(self._http.drain, trio.current_time() + period)
            await send_away(list(self._registry.ready), reason=self._drain_reason, period=period)
            await self._registry.wait_empty()


def open_database(url: str) -> Database:
    """The database of audit and blocks, not open yet. Raises `ValueError` with what to do."""
    try:
        return Database(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"audit.database: {error}") from None


async def serve(
    application: Application,
    config: Config | None = None,
    *,
    observers: Iterable[Observer] = (),
    tracer: Tracer | None = None,
    wall_clock: Callable[[], float] = time.time,
    handle_signals: bool | None = None,
    load_config: Callable[[], Config] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until it is drained or cancelled.

    As a program, ``trio.run(serve, app, config)``: SIGTERM and SIGINT drain, SIGUSR2 drains for a
    restart, a second one ends at once, SIGHUP reloads, and systemd is told. Embedded,
    ``server = await nursery.start(serve, app, config)``: signals are the program's, and
    `Server.drain` and `Server.reload` are there. Cancelling this ends all connections at once.

    ``observers`` are told what happens. ``tracer`` makes OpenTelemetry spans; None makes them where
    the configuration says so, with the process's tracer provider. ``handle_signals``: None means
    as a program only; True needs the main thread. ``wall_clock`` gives seconds since the Unix
    epoch. ``load_config`` is called in a worker thread to reload the configuration; None keeps
    ``config``.

    Raises `CannotListen`; `ValueError` where an authenticator refuses the addresses; `ImportError`
    where an application has ``http`` or tracing is on, and the extra is not installed.
    """
    server = Server(
        application,
        config or Config(),
        observers=observers,
        tracer=tracer,
        wall_clock=wall_clock,
        load_config=load_config,
    )
    if handle_signals is None:
        program = task_status is trio.TASK_STATUS_IGNORED
        handle_signals = program and threading.current_thread() is threading.main_thread()
    try:
        await server.run(handle_signals=handle_signals, task_status=task_status)
    except ExceptionGroup as group:
        raise unwrap(group) from None
