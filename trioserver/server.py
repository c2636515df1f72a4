"""The server: listeners, connections, and how they come to their end."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from protocol import Refusal
from trioserver.admission import Admission, Ticket
from trioserver.application import Application, Match
from trioserver.config import Config, ListenConfig
from trioserver.connection import Connection
from trioserver.draining import send_away
from trioserver.handlers import unwrap
from trioserver.lifecycle import Lifecycle
from trioserver.opening import judge, new_connection
from trioserver.websocket.handshake import (
    BadHead,
    Head,
    PeerLeft,
    read_head,
    refuse,
)
from trioserver.websocket.listeners import (
    Address,
    Listener,
    SocketFile,
    address_of,
    close,
    open_tcp,
    open_unix,
    remote_of,
    tls_context,
)
from trioserver.websocket.readiness import make_readiness

log: Final = structlog.get_logger("trioserver")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot. ``refused`` counts refusals by code since the start."""

    open: int
    unauthenticated: int
    ready: int
    accepted: int
    topics: int
    refused: Mapping[str, int]
    draining: bool


class Server:
    """A running server. `serve` makes it; ``addresses`` says where it is."""

    def __init__(
        self, application: Application, config: Config, *, wall_clock: Callable[[], float]
    ) -> None:
        self.application = application
        self.config = config
        self.addresses: tuple[Address, ...] = ()
        self._wall_clock = wall_clock
        self._admission = Admission(
            max_connections=config.limits.connections,
            max_unauthenticated=config.limits.unauthenticated,
        )
        self._connections: dict[str, Connection] = {}
        self._ready: set[Connection] = set()
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._socket_files: list[SocketFile] = []
        self._readiness = make_readiness()
        self._drain_requested = trio.Event()
        self._drain_reason = "shutdown"
        self._drained = trio.Event()
        self._all_gone = trio.Event()

    # -------------------------------------------------------------------------- what it offers

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All that are ready, in no order."""
        return tuple(self._ready)

    def statistics(self) -> ServerStatistics:
        """How it stands at this moment."""
        return ServerStatistics(
            open=self._admission.open,
            unauthenticated=self._admission.unauthenticated,
            ready=len(self._ready),
            accepted=self._accepted,
            topics=sum(len(part.engine) for part in self.application.parts),
            refused=dict(self._refused),
            draining=self._drain_requested.is_set(),
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
        matching = [
            candidate
            for candidate in self._connections.values()
            if candidate._matches(user, token_id, resource, connection)
        ]
        for candidate in matching:
            candidate.disconnect(code, message)
        return len(matching)

    async def drain(self, reason: str = "shutdown") -> None:
        """Stop accepting, send everybody away in slots spread over the drain period, and end.

        ``reason``: "shutdown" or "restart". Returns when the last connection has ended; `serve`
        returns then too. Cancelling this does not stop the draining.
        """
        if not self._drain_requested.is_set():
            self._drain_reason = reason
            self._drain_requested.set()
        await self._drained.wait()

    # -------------------------------------------------------------------------- running

    async def run(self, *, handle_signals: bool, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled. Nesting is the order of the end."""
        async with AsyncExitStack() as lifespans, trio.open_nursery() as services:
            for part in self.application.parts:
                if part.lifespan is not None:
                    await lifespans.enter_async_context(part.lifespan(part))
            if self._readiness is not None:
                services.start_soon(self._readiness.run)
            for service in self._services():
                await services.start(service)
            listeners = await self._open_listeners()
            try:
                async with trio.open_nursery() as connections:
                    if handle_signals:
                        await connections.start(self._watch_signals, services.cancel_scope)
                    await self._accept(listeners, connections, task_status)
                    await self._empty()
                    connections.cancel_scope.cancel()
            finally:
                await _close_all(listeners)
                for file in self._socket_files:
                    await file.remove()
            services.cancel_scope.cancel()
        self._drained.set()

    async def _accept(
        self,
        listeners: list[Listener],
        connections: trio.Nursery,
        task_status: trio.TaskStatus[Server],
    ) -> None:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(
                    trio.serve_listeners, self.serve_stream, listeners, handler_nursery=connections
                )
            )
            log.info("listening", addresses=[address.url for address in self.addresses])
            task_status.started(self)
            await self._drain_requested.wait()
            accepting.cancel_scope.cancel()
        await _close_all(listeners)

    def _services(self) -> list[Callable[..., Any]]:
        """Background work of authenticators and owner checks, each once."""
        parts = [part for route in self.application.routes for part in (route.auth, route.owner)]
        different = {id(part): part for part in parts}.values()
        runs = (getattr(part, "run", None) for part in different)
        return [run for run in runs if run is not None]

    async def _open_listeners(self) -> list[Listener]:
        listeners: list[Listener] = []
        try:
            for where in self.config.listeners:
                listeners += await _open(where)
            self.addresses = tuple(map(address_of, listeners))
            unix = [address for address in self.addresses if address.port is None]
            self._socket_files = [await SocketFile.of(address) for address in unix]
            for route in self.application.routes:
                check = getattr(route.auth, "check_addresses", None)
                if check is not None:
                    check([str(address) for address in self.addresses])
        except BaseException:
            await _close_all(listeners)
            raise
        return listeners

    async def _watch_signals(
        self, everything: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        """The first signal drains, the second ends at once."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if self._drain_requested.is_set():
                    log.warning("ending_at_once", signal=name)
                    everything.cancel()
                else:
                    log.info("draining", signal=name, seconds=self.config.shutdown.drain_period)
                    self._drain_requested.set()

    # -------------------------------------------------------------------------- a connection

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str | None = None) -> None:
        """Serve one stream that is open already, to its end; what listeners accept comes here.

        Raises nothing but `trio.Cancelled`. ``remote`` is taken from a socket where not given.
        """
        self._accepted += 1
        with trio.CancelScope() as scope:
            ticket = self._admission.enter(scope.cancel)
            if ticket is None:
                self._refused["server_busy"] += 1
                await trio.aclose_forcefully(stream)
                return
            try:
                await self._serve(stream, ticket, remote_of(stream) if remote is None else remote)
            except* Exception:
                log.exception("stream_crashed")
            finally:
                self._admission.leave(ticket)
                await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream, ticket: Ticket, remote: str) -> None:
        try:
            with trio.fail_after(self.config.limits.head_timeout):
                head = await read_head(stream, max_bytes=self.config.limits.head_bytes)
            match = judge(head, self.application)
        except BadHead as bad:
            log.info("request_refused", remote=remote, status=bad.status, reason=bad.reason)
            await refuse(stream, bad)
        except (PeerLeft, trio.TooSlowError) as error:
            log.debug("no_request", remote=remote, why=type(error).__name__)
        else:
            await self._run_connection(stream, head, match, ticket, remote)

    async def _run_connection(
        self, stream: trio.abc.Stream, head: Head, match: Match, ticket: Ticket, remote: str
    ) -> None:
        connection = new_connection(
            stream,
            head,
            match,
            config=self.config,
            remote=remote,
            wall_clock=self._wall_clock,
            readiness=self._readiness,
        )
        ticket.evict = partial(connection.disconnect, "server_busy")
        lifecycle = Lifecycle(
            connection, config=self.config, on_ready=partial(self._on_ready, ticket)
        )
        busy = Refusal("server_busy") if self._admission.is_full else None
        self._connections[connection.id] = connection
        try:
            await lifecycle.run(head, self._refusal_now() or busy)
        finally:
            del self._connections[connection.id]
            self._ready.discard(connection)
            if connection._session.close is not None and connection._session.close.reason:
                self._refused[connection._session.close.reason] += 1
            if not self._connections:
                self._all_gone.set()

    def _on_ready(self, ticket: Ticket, connection: Connection) -> None:
        self._admission.authenticated(ticket)
        self._ready.add(connection)
        if connection.route.supersede:
            for other in self.connections:
                if other is not connection and other._is_same_place(connection):
                    other.disconnect("superseded")

    # -------------------------------------------------------------------------- the end

    async def _empty(self) -> None:
        """Send everybody away, and wait until the last one has gone."""
        for connection in self._connections.values():
            if connection not in self._ready:
                connection.disconnect(self._drain_reason)
        period = self.config.shutdown.drain_period
        await send_away(list(self._ready), reason=self._drain_reason, period=period)
        while self._connections:
            self._all_gone = trio.Event()
            await self._all_gone.wait()

    def _refusal_now(self) -> Refusal | None:
        return Refusal(self._drain_reason) if self._drain_requested.is_set() else None


async def serve(
    application: Application,
    config: Config | None = None,
    *,
    wall_clock: Callable[[], float] = time.time,
    handle_signals: bool | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until it is drained or cancelled.

    As a program, ``trio.run(serve, app, config)``: SIGTERM and SIGINT drain, a second one ends at
    once. Embedded, ``server = await nursery.start(serve, app, config)``: signals are the
    program's, and `Server.drain` is there. Cancelling this ends all connections at once.

    ``handle_signals``: None means as a program only; True needs the main thread. ``wall_clock``
    gives seconds since the Unix epoch. Raises `CannotListen`, and `ValueError` where an
    authenticator refuses the addresses.
    """
    server = Server(application, config or Config(), wall_clock=wall_clock)
    if handle_signals is None:
        program = task_status is trio.TASK_STATUS_IGNORED
        handle_signals = program and threading.current_thread() is threading.main_thread()
    try:
        await server.run(handle_signals=handle_signals, task_status=task_status)
    except ExceptionGroup as group:
        raise unwrap(group) from None


async def _open(where: ListenConfig) -> list[Listener]:
    if where.unix_path is not None:
        return await open_unix(where.unix_path)
    tls = None
    if where.certificate is not None and where.key is not None:
        tls = tls_context(where.certificate, where.key)
    return await open_tcp(where.host, where.port, tls)


async def _close_all(listeners: list[Listener]) -> None:
    for listener in listeners:
        await close(listener)
