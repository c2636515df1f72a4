"""The server: listeners, connections, and how they come to their end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from protocol import Refusal
from trioserver.application import Application
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.draining import send_away
from trioserver.front_door import FrontDoor
from trioserver.handlers import unwrap
from trioserver.listening import Listening
from trioserver.observer import Observer, Observers
from trioserver.registry import Registry
from trioserver.websocket.listeners import Address
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
        self,
        application: Application,
        config: Config,
        *,
        observers: Iterable[Observer] = (),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.application = application
        self.config = config
        self.addresses: tuple[Address, ...] = ()
        self._readiness = make_readiness()
        self._registry = Registry()
        self._front_door = FrontDoor(
            application,
            config,
            registry=self._registry,
            readiness=self._readiness,
            observer=Observers(observers),
            wall_clock=wall_clock,
        )
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
        door = self._front_door
        return ServerStatistics(
            open=door.admission.open,
            unauthenticated=door.admission.unauthenticated,
            ready=self._registry.ready_count,
            accepted=door.accepted,
            topics=sum(len(part.engine) for part in self.application.parts),
            refused=dict(door.refused),
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
        matching = self._registry.matching(
            user=user, token_id=token_id, resource=resource, connection=connection
        )
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
            listening = Listening()
            try:
                await self._listen(listening)
                async with trio.open_nursery() as connections:
                    if handle_signals:
                        await connections.start(self._watch_signals, services.cancel_scope)
                    await self._accept(listening, connections, task_status)
                    await self._empty()
                    connections.cancel_scope.cancel()
            finally:
                await listening.close()
                await listening.remove_files()
            services.cancel_scope.cancel()
        self._drained.set()

    async def _listen(self, listening: Listening) -> None:
        await listening.open(self.config.listeners)
        self.addresses = listening.addresses
        for route in self.application.routes:
            check = getattr(route.auth, "check_addresses", None)
            if check is not None:
                check([str(address) for address in self.addresses])

    async def _accept(
        self,
        listening: Listening,
        connections: trio.Nursery,
        task_status: trio.TaskStatus[Server],
    ) -> None:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(
                    trio.serve_listeners,
                    self.serve_stream,
                    listening.listeners,
                    handler_nursery=connections,
                )
            )
            log.info("listening", addresses=[address.url for address in self.addresses])
            task_status.started(self)
            await self._drain_requested.wait()
            self._front_door.closed_for = Refusal(self._drain_reason)
            accepting.cancel_scope.cancel()
        await listening.close()

    def _services(self) -> list[Callable[..., Any]]:
        """Background work of authenticators, owner checks and the like, each once."""
        parts: list[object] = [part._mailbox for part in self.application.parts]
        for route in self.application.routes:
            parts += (route.auth, route.owner, route._presence)
        different = {id(part): part for part in parts}.values()
        runs = (getattr(part, "run", None) for part in different)
        return [run for run in runs if run is not None]

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
        await send_away(list(self._registry.ready), reason=self._drain_reason, period=period)
        await self._registry.wait_empty()


async def serve(
    application: Application,
    config: Config | None = None,
    *,
    observers: Iterable[Observer] = (),
    wall_clock: Callable[[], float] = time.time,
    handle_signals: bool | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until it is drained or cancelled.

    As a program, ``trio.run(serve, app, config)``: SIGTERM and SIGINT drain, a second one ends at
    once. Embedded, ``server = await nursery.start(serve, app, config)``: signals are the
    program's, and `Server.drain` is there. Cancelling this ends all connections at once.

    ``observers`` are told what happens. ``handle_signals``: None means as a program only; True
    needs the main thread. ``wall_clock`` gives seconds since the Unix epoch.

    Raises `CannotListen`, and `ValueError` where an authenticator refuses the addresses.
    """
    server = Server(application, config or Config(), observers=observers, wall_clock=wall_clock)
    if handle_signals is None:
        program = task_status is trio.TASK_STATUS_IGNORED
        handle_signals = program and threading.current_thread() is threading.main_thread()
    try:
        await server.run(handle_signals=handle_signals, task_status=task_status)
    except ExceptionGroup as group:
        raise unwrap(group) from None
