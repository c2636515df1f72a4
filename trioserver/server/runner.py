"""One run of a server: what it opens and closes, what runs beside the connections, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Final

import structlog
import trio

from protocol import Refusal
from trioserver.app.application import Application
from trioserver.auth import Component
from trioserver.auth.loopback import is_loopback
from trioserver.server.connection_handler import ConnectionHandler
from trioserver.server.http_side import HttpSide
from trioserver.server.operations.draining import drain_connections
from trioserver.server.operations.listener_manager import ListenerManager
from trioserver.server.operations.reloading import Reloader
from trioserver.server.operations.signals import watch_signals
from trioserver.server.operations.supervision import supervise
from trioserver.server.operations.systemd import SystemdNotifier
from trioserver.server.registry import Registry
from trioserver.telemetry.counts import Counts
from trioserver.websocket.accepting import Listener
from trioserver.websocket.poller import SocketPoller

log: Final = structlog.get_logger("trioserver")

_GRACE: Final = 10.0
"""Seconds for the application to end, beyond those of its connections, until systemd ends it."""


class ServerRunner:
    """Runs once. Draining may be asked for at any time, by anybody.

    ``lifespan_of`` gives an application's lifespan, not entered yet; None where it has none.
    ``parts`` are authenticators and the like. ``services`` are to run beside the connections, each
    with a ``task_status``. One that fails after it has started is started again, and ends nothing
    else. It and ``make_http``, which may raise, are called when the application has started.
    """

    def __init__(
        self,
        application: Application,
        *,
        handler: ConnectionHandler,
        listening: ListenerManager,
        reloader: Reloader,
        registry: Registry,
        counts: Counts,
        poller: SocketPoller | None,
        parts: Callable[[], Sequence[object]],
        services: Callable[[], Sequence[Callable[..., Any]]],
        make_http: Callable[[], HttpSide | None],
        lifespan_of: Callable[[Application], AbstractAsyncContextManager[None] | None],
    ) -> None:
        self.http: HttpSide | None = None
        self._application = application
        self._handler = handler
        self._listening = listening
        self._reloader = reloader
        self._registry = registry
        self._counts = counts
        self._poller = poller
        self._parts = parts
        self._services = services
        self._make_http = make_http
        self._lifespan_of = lifespan_of
        self._manager = SystemdNotifier()
        self._reload_requested = trio.Event()
        self._drain_requested = trio.Event()
        self._drain_reason = "shutdown"
        self._drained = trio.Event()

    @property
    def is_draining(self) -> bool:
        """Whether everybody is being sent away."""
        return self._drain_requested.is_set()

    def start_draining(self, reason: str) -> bool:
        """Begin to send everybody away; False where that had begun before."""
        if self.is_draining:
            return False
        self._drain_reason = reason
        self._drain_requested.set()
        return True

    async def wait_drained(self) -> None:
        """Wait until the run is over."""
        await self._drained.wait()

    async def reload(self) -> bool:
        """As `Server.reload`; systemd is told."""
        self._manager.reloading()
        good = await self._reloader.reload()
        self._manager.ready(self._status())
        return good

    # -------------------------------------------------------------------------- the run

    async def run(self, *, handle_signals: bool, on_ready: Callable[[], None]) -> None:
        """Serve until drained or cancelled. Nesting is the order of the end."""
        async with AsyncExitStack() as lifespans:
            for part in self._application.parts:
                lifespan = self._lifespan_of(part)
                if lifespan is not None:
                    await lifespans.enter_async_context(lifespan)
            self.http = self._handler.http = self._make_http()
            if self.http is not None:
                await lifespans.enter_async_context(self.http.running())
            async with trio.open_nursery() as services:
                if self._poller is not None:
                    services.start_soon(self._poller.run)
                for service in self._services():
                    await services.start(supervise, service)
                await self._serve(services, handle_signals, on_ready)
                services.cancel_scope.cancel()
        self._drained.set()

    async def _serve(
        self, services: trio.Nursery, handle_signals: bool, on_ready: Callable[[], None]
    ) -> None:
        listening = self._listening
        try:
            await listening.open(self._reloader.config)
            self._check_addresses()
            services.start_soon(supervise, self._reloader.watch_certificates)
            async with trio.open_nursery() as connections:
                if handle_signals:
                    await self._heed_signals(services, connections)
                for listener in listening.builtin_listeners:
                    self._accept(listener, connections, connections, builtin=True)
                async with trio.open_nursery() as accepting:
                    for listener in listening.listeners:
                        self._accept(listener, accepting, connections)
                    self._say_ready(on_ready)
                    await self._drain_requested.wait()
                    self._say_stopping()
                    accepting.cancel_scope.cancel()
                await listening.close()
                await self._empty()
                connections.cancel_scope.cancel()
        finally:
            await listening.close_all()

    def _check_addresses(self) -> None:
        addresses = [str(address) for address in self._listening.addresses]
        for part in self._parts():
            if isinstance(part, Component):
                part.check_addresses(addresses)

    def _accept(
        self,
        listener: Listener,
        accepting: trio.Nursery,
        connections: trio.Nursery,
        *,
        builtin: bool = False,
    ) -> None:
        proxied = listener in self._listening.proxied
        serve = partial(self._handler.serve_stream, proxied=proxied, builtin=builtin)
        accepting.start_soon(
            partial(trio.serve_listeners, serve, [listener], handler_nursery=connections)
        )

    async def _empty(self) -> None:
        """Send everybody away, and wait until the last one has gone."""
        for connection in self._registry.waiting:
            connection.disconnect(self._drain_reason)
        period = self._reloader.config.shutdown.drain_period
        self._counts.drain_total = self._registry.ready_count
        async with trio.open_nursery() as nursery:
            if self.http is not None:
                nursery.start_soon(self.http.drain, trio.current_time() + period)
            await drain_connections(
                list(self._registry.ready), reason=self._drain_reason, period=period
            )
            await self._registry.wait_empty()

    # -------------------------------------------------------------------------- being told, telling

    async def _heed_signals(self, services: trio.Nursery, connections: trio.Nursery) -> None:
        self._manager = SystemdNotifier.of()
        services.start_soon(supervise, self._manager.run)
        connections.start_soon(supervise, self._reload_on_request)
        watch = partial(
            watch_signals,
            drain=self.start_draining,
            end=services.cancel_scope.cancel,
            reload=lambda: self._reload_requested.set(),
        )
        await connections.start(watch)

    async def _reload_on_request(self) -> None:
        """In a task of its own: signals that end the server do not wait for files."""
        while True:
            await self._reload_requested.wait()
            self._reload_requested = trio.Event()
            if not self.is_draining:
                await self.reload()

    def _status(self) -> str:
        return "listening on " + " ".join(each.url for each in self._listening.addresses)

    def _say_ready(self, on_ready: Callable[[], None]) -> None:
        log.info("listening", addresses=[each.url for each in self._listening.addresses])
        self._warn_of_plain_text()
        on_ready()
        self._manager.ready(self._status())

    def _warn_of_plain_text(self) -> None:
        """Where others reach it without TLS, unless a proxy that is trusted may end it."""
        plain = [
            str(each)
            for each in self._listening.addresses
            if each.port is not None and not (each.secure or is_loopback(each.host))
        ]
        if plain and not self._reloader.config.proxy.trusted:
            log.warning(
                "public_without_tls",
                addresses=plain,
                hint="tokens can be read on the way: set certificate and key; or listen on "
                "127.0.0.1 behind a proxy that ends TLS, and name it in proxy.trusted",
            )

    def _say_stopping(self) -> None:
        self._handler.closed_for = Refusal(self._drain_reason)
        shutdown = self._reloader.config.shutdown
        within = shutdown.drain_period + shutdown.close_timeout + _GRACE
        number = self._registry.ready_count
        self._manager.stopping(f"sending {number} clients away", within=within)
