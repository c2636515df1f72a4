"""A TCP proxy in front of a server, which fails as networks do."""

from __future__ import annotations

from contextlib import suppress

import attrs
import trio

_CHUNK = 65536


@attrs.define(eq=False)
class Proxy:
    """Passes bytes on, until it is told to fail.

    ``swallow_up`` and ``swallow_down`` drop what comes from the client and from the server,
    ``delay`` is in seconds for each chunk, ``is_refusing`` closes new connections.
    """

    target_port: int
    port: int = 0
    swallow_up: bool = False
    swallow_down: bool = False
    is_refusing: bool = False
    delay: float = 0.0
    _scopes: set[trio.CancelScope] = attrs.field(factory=set)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `port` is set when it has started."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._serve, [listener], task_status=_Started(task_status))

    def cut(self) -> None:
        """Reset all connections."""
        for scope in tuple(self._scopes):
            scope.cancel()

    def heal(self) -> None:
        """Pass everything on again. Connections whose bytes were swallowed stay as they are."""
        self.swallow_up = self.swallow_down = self.is_refusing = False
        self.delay = 0.0

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.is_refusing:
            await trio.aclose_forcefully(client)
            return
        with suppress(OSError), trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self.target_port)
                async with client, server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, True, nursery.cancel_scope)
                    nursery.start_soon(self._pump, server, client, False, nursery.cancel_scope)
            finally:
                self._scopes.discard(scope)
                await trio.aclose_forcefully(client)

    async def _pump(
        self,
        source: trio.SocketStream,
        target: trio.SocketStream,
        is_up: bool,
        scope: trio.CancelScope,
    ) -> None:
        has_swallowed = False  # what comes after a hole is not passed on: TCP has no holes
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(_CHUNK):
                if self.delay:
                    await trio.sleep(self.delay)
                has_swallowed |= self.swallow_up if is_up else self.swallow_down
                if not has_swallowed:
                    await target.send_all(data)
        scope.cancel()


@attrs.define
class _Started:
    """A task status that keeps the listeners to itself."""

    status: trio.TaskStatus[None]

    def started(self, value: object = None) -> None:
        self.status.started()
