"""The HTTP side of a server: its ASGI applications, and the connections that they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from trioserver.http.builtin import builtin_routes
from trioserver.http.connection import HttpConnection, SharedContext
from trioserver.http.host_server import HostServer
from trioserver.http.lifespan import lifespan
from trioserver.http.mounting import Mounted, Mounts
from trioserver.http.pages import plain
from trioserver.peers.addresses import UNIX, host_of
from trioserver.server.admitted import AdmittedStream
from trioserver.websocket.handshake import Head
from trioserver.websocket.tls_stream import is_secure, socket_below


class HttpService:
    """Answers requests that are not opening handshakes. Implements `HttpSide`."""

    def __init__(
        self, server: HostServer, *, metrics: ASGIApp | None = None, admin: ASGIApp | None = None
    ) -> None:
        config = server.config
        self._shared = SharedContext(config=config)
        self._connections: set[HttpConnection] = set()
        self._empty = trio.Event()
        self._states: dict[int, dict[str, Any]] = {}
        self._mounted = [
            Mounted(
                asgi=part.http,
                application=part,
                state=self._states.setdefault(id(part.http), {}),
            )
            for part in server.application.parts
            if part.http is not None
        ]
        mounts = Mounts(self._mounted, server.application)
        apart = config.http.builtin_listen is not None
        shared = [] if apart else builtin_routes(server, metrics=metrics, admin=admin, shared=True)
        self._main = _Router(server, shared, mounts)
        self._builtin = _Router(server, builtin_routes(server, metrics=metrics, admin=admin), None)

    def has_builtin(self, path: str) -> bool:
        """Return whether a built-in route answers this path on the port of the WebSockets."""
        scope = {"type": "http", "method": "GET", "path": path, "trioserver.local": True}
        return self._main.has_builtin(scope)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the mounted applications; stop them on exit. Raises `LifespanError`."""
        async with AsyncExitStack() as stack:
            started: set[int] = set()
            for mounted in self._mounted:
                if id(mounted.asgi) not in started:
                    started.add(id(mounted.asgi))
                    state = self._states[id(mounted.asgi)]
                    await stack.enter_async_context(lifespan(mounted.asgi, state))
            yield

    async def serve(self, admitted: AdmittedStream, head: Head) -> Head | None:
        """Serve a stream whose first head was read and checked. See `HttpConnection.serve`."""
        router = self._builtin if admitted.builtin else self._main
        scope = {
            "scheme": "https" if is_secure(admitted.stream) else "http",
            "client": _client_address(admitted.remote),
            "server": _server_address(admitted.stream),
        }
        connection = HttpConnection(admitted, router, self._shared, scope=scope)
        admitted.slot.evict = admitted.slot.abort = connection.abort
        self._connections.add(connection)
        try:
            return await connection.serve(head)
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._empty.set()

    async def drain(self, deadline: float) -> None:
        """End each connection after its current response. Return at ``deadline`` at the latest.

        ``deadline`` is in Trio's time. The caller cancels the connections that are left then.
        """
        self._shared.is_draining = True
        for connection in tuple(self._connections):
            connection.drain()
        with trio.move_on_at(deadline):
            while self._connections:
                self._empty = trio.Event()
                await self._empty.wait()


class _Router:
    """Routes a request: to a built-in route, otherwise to the mounted applications."""

    def __init__(self, server: HostServer, routes: list[BaseRoute], mounts: Mounts | None) -> None:
        self._server = server
        self._routes = routes
        self._own = Starlette(routes=routes, exception_handlers={HTTPException: _error_page})
        self._own.router.redirect_slashes = False
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["trioserver"] = self._server
        if self._mounts is None or self.has_builtin(scope):
            await self._own(scope, receive, send)
        else:
            await self._mounts(scope, receive, send)

    def has_builtin(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._routes)


async def _error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this only"
    text = {
        404: "There is no resource at this path.",
        405: "This path does not support the method of the request.",
    }
    return plain(text.get(error.status_code, error.detail), error.status_code, error.headers)


def _client_address(remote: str) -> tuple[str, int] | None:
    """Return "[::1]:80" as ("::1", 80); None if it is not the address of a host."""
    host = host_of(remote)
    if host in ("", UNIX):
        return None
    port = remote.rpartition(":")[2] if host != remote else ""
    return host, int(port) if port.isdigit() else 0


def _server_address(stream: trio.abc.Stream) -> tuple[str, int] | None:
    socket = socket_below(stream)
    if socket is None:
        return None
    try:
        name = socket.getsockname()
    except OSError:
        return None
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
