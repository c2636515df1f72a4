"""Calls clients when their sockets are readable or writable."""

from __future__ import annotations

from functools import partial

import trio

from trioserver.load.pacing import clock
from trioserver.load.simulated_client import SimulatedClient
from trioserver.load.transport import Transport
from trioserver.websocket.poller import make_poller


class Sockets:
    """All sockets of this process: in one epoll object on Linux, otherwise with a task for each.

    `run` must run.
    """

    def __init__(self, *, one_epoll: bool = True) -> None:
        self._poller = make_poller() if one_epoll else None
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the sockets until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._poller is not None:
                nursery.start_soon(self._poller.run)
            task_status.started()
            await trio.sleep_forever()

    def watch(self, client: SimulatedClient, transport: Transport) -> None:
        """Call `SimulatedClient.readable` until ``transport.stop_watching`` is called."""
        if self._poller is not None:
            fd = transport.sock.fileno()
            handler = _Reader(client)
            self._poller.watch(fd, handler)
            transport.unwatch = partial(self._poller.unwatch, fd, handler)
        elif self._nursery is not None:
            reading = trio.CancelScope()
            transport.unwatch = reading.cancel
            self._nursery.start_soon(_read, client, transport, reading)

    def blocked(self, client: SimulatedClient) -> None:
        """Call `SimulatedClient.flush` when the socket is writable, until nothing waits."""
        if self._nursery is not None and client.transport is not None:
            self._nursery.start_soon(_write, client, client.transport)


class _Reader:
    """Reads for a client immediately, because the arrival time of an answer is measured."""

    __slots__ = ("_client",)

    def __init__(self, client: SimulatedClient) -> None:
        self._client = client

    def read_nowait(self) -> None:
        self._client.readable(clock())

    def receive_nowait(self, data: bytes, now: float) -> None:
        raise AssertionError("nothing is left to be taken")

    def flush_nowait(self) -> bool:
        return True


async def _read(client: SimulatedClient, transport: Transport, reading: trio.CancelScope) -> None:
    with reading:
        while not transport.closed:
            await trio.lowlevel.wait_readable(transport.sock)
            client.readable(clock())


async def _write(client: SimulatedClient, transport: Transport) -> None:
    try:
        while transport.blocked and not transport.closed and client.transport is transport:
            await trio.lowlevel.wait_writable(transport.sock)
            client.flush()
    except trio.ClosedResourceError:
        pass
