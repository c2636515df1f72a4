"""One run of a server: listeners, background services, signals, and the drain at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import structlog
import trio

from protocol import Refusal
from trioserver.auth.loopback import is_loopback
from trioserver.server.components import Components
from trioserver.server.connection_handler import ConnectionHandler
from trioserver.server.context import ServerContext
from trioserver.server.operations.draining import drain_connections
from trioserver.server.operations.listener_manager import ListenerManager
from trioserver.server.operations.reloading import Reloader
from trioserver.server.operations.signals import watch_signals
from trioserver.server.operations.supervision import supervise
from trioserver.server.operations.systemd import SystemdNotifier
from trioserver.websocket.accepting import Listener

log: Final = structlog.get_logger("trioserver")

_GRACE: Final = 10.0
"""Seconds for the application to end, beyond those of its connections, until systemd ends it."""


class ServerRunner:
    """Runs a server once. Draining may be requested at any time."""

    def __init__(
        self,
        context: ServerContext,
        *,
        handler: ConnectionHandler,
        listeners: ListenerManager,
        reloader: Reloader,
        components: Components,
    ) -> None:
        self._registry = context.registry
        self._metrics = context.metrics
        self._poller = context.poller
        self._handler = handler
        self._listeners = listeners
        self._reloader = reloader
        self._components = components
        self._systemd = SystemdNotifier()
        self._reload_requested = trio.Event()
        self._drain_requested = trio.Event()
        self._drain_reason = "shutdown"

    @property
    def is_draining(self) -> bool:
        """Whether draining was requested."""
        return self._drain_requested.is_set()

    def start_draining(self, reason: str) -> bool:
        """Begin to drain; return False if that had begun before."""
        if self.is_draining:
            return False
        self._drain_reason = reason
        self._drain_requested.set()
        return True

    async def reload(self) -> bool:
        """See `Server.reload`. Systemd is notified."""
        self._systemd.reloading()
        good = await self._reloader.reload()
        self._systemd.ready(self._status())
        return good

    # -------------------------------------------------------------------------- the run

    async def run(
        self,
        services: Iterable[Callable[..., Any]],
        *,
        handle_signals: bool,
        on_ready: Callable[[], None],
    ) -> None:
        """Serve until drained or cancelled.

        ``services`` run beside the connections, and are started before the first of them. One that
        fails is started again, and ends nothing else. ``on_ready`` is called when the listeners
        are open.
        """
        async with trio.open_nursery() as background:
            if self._poller is not None:
                background.start_soon(self._poller.run)
            for service in services:
                await background.start(supervise, service)
            await self._serve(background, handle_signals, on_ready)
            background.cancel_scope.cancel()

    async def _serve(
        self, background: trio.Nursery, handle_signals: bool, on_ready: Callable[[], None]
    ) -> None:
        listeners = self._listeners
        try:
            await listeners.open(self._reloader.config)
            self._components.check_addresses([str(address) for address in listeners.addresses])
            background.start_soon(supervise, self._reloader.watch_certificates)
            async with trio.open_nursery() as connections:
                if handle_signals:
                    await self._handle_signals(background, connections)
                for listener in listeners.builtin_listeners:
                    self._accept(listener, connections, connections, builtin=True)
                async with trio.open_nursery() as accepting:
                    for listener in listeners.listeners:
                        self._accept(listener, accepting, connections)
                    self._notify_ready(on_ready)
                    await self._drain_requested.wait()
                    self._notify_stopping()
                    accepting.cancel_scope.cancel()
                await listeners.close()
                await self._drain()
                connections.cancel_scope.cancel()
        finally:
            await listeners.close_all()

    def _accept(
        self,
        listener: Listener,
        accepting: trio.Nursery,
        connections: trio.Nursery,
        *,
        builtin: bool = False,
    ) -> None:
        proxied = listener in self._listeners.proxied
        serve = partial(self._handler.serve_stream, proxied=proxied, builtin=builtin)
        accepting.start_soon(
            partial(trio.serve_listeners, serve, [listener], handler_nursery=connections)
        )

    async def _drain(self) -> None:
        """Close all connections, and wait until the last one has ended."""
        for connection in self._registry.waiting:
            connection.disconnect(self._drain_reason)
        period = self._reloader.config.shutdown.drain_period
        self._metrics.drain_initial = self._registry.ready_count
        async with trio.open_nursery() as nursery:
            if self._handler.http is not None:
                nursery.start_soon(self._handler.http.drain, trio.current_time() + period)
            await drain_connections(
                list(self._registry.ready), reason=self._drain_reason, period=period
            )
            await self._registry.wait_empty()

    # -------------------------------------------------------------------------- signals and systemd

    async def _handle_signals(self, background: trio.Nursery, connections: trio.Nursery) -> None:
        self._systemd = SystemdNotifier.of()
        background.start_soon(supervise, self._systemd.run)
        connections.start_soon(supervise, self._reload_on_request)
        watch = partial(
            watch_signals,
            drain=self.start_draining,
            end=background.cancel_scope.cancel,
            reload=lambda: self._reload_requested.set(),
        )
        await connections.start(watch)

    async def _reload_on_request(self) -> None:
        """Reload in a task of its own: signals that end the server must not wait for files."""
        while True:
            await self._reload_requested.wait()
            self._reload_requested = trio.Event()
            if not self.is_draining:
                await self.reload()

    def _status(self) -> str:
        return "listening on " + " ".join(each.url for each in self._listeners.addresses)

    def _notify_ready(self, on_ready: Callable[[], None]) -> None:
        log.info("listening", addresses=[each.url for each in self._listeners.addresses])
        self._warn_of_plain_text()
        on_ready()
        self._systemd.ready(self._status())

    def _warn_of_plain_text(self) -> None:
        """Warn if others can connect without TLS, unless a trusted proxy may terminate TLS."""
        plain = [
            str(each)
            for each in self._listeners.addresses
            if each.port is not None and not (each.secure or is_loopback(each.host))
        ]
        if plain and not self._reloader.config.proxy.trusted:
            log.warning(
                "public_without_tls",
                addresses=plain,
                hint="tokens can be read on the way: set certificate and key; or listen on "
                "127.0.0.1 behind a proxy that ends TLS, and name it in proxy.trusted",
            )

    def _notify_stopping(self) -> None:
        self._handler.closed_for = Refusal(self._drain_reason)
        shutdown = self._reloader.config.shutdown
        within = shutdown.drain_period + shutdown.close_timeout + _GRACE
        number = self._registry.ready_count
        self._systemd.stopping(f"draining {number} connections", within=within)
