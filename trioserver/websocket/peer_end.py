"""The end of a peer that is not being read: FIN and RST, whatever stands before them.

A socket whose bytes are left in the kernel says by EPOLLRDHUP that the peer has ended. Linux only:
elsewhere, and for streams that are no sockets, the end is seen when reading goes on.
"""

from __future__ import annotations

import select
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import trio

from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.tls_stream import socket_below


@asynccontextmanager
async def watched_for_end(
    stream: trio.abc.Stream, poller: SocketPoller | None, call: Callable[[], None]
) -> AsyncIterator[None]:
    """Call ``call`` once, if the peer of ``stream`` disconnects within this context.

    The ``poller`` of all sockets watches this one too, if there is one; otherwise a task does.
    """
    socket = socket_below(stream)
    descriptor = -1 if socket is None else socket.fileno()
    if descriptor < 0:
        yield
    elif poller is not None:
        poller.watch_hangup(descriptor, call)
        try:
            yield
        finally:
            poller.unwatch_hangup(descriptor, call)
    elif sys.platform == "linux":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_hangup, descriptor, call)
            yield
            nursery.cancel_scope.cancel()
    else:
        yield


async def _wait_hangup(descriptor: int, call: Callable[[], None]) -> None:
    """Wait in an epoll object of its own, because Trio's waits end as soon as there is data."""
    assert sys.platform == "linux"
    with closing(select.epoll()) as epoll:
        epoll.register(descriptor, select.EPOLLRDHUP)
        await trio.lowlevel.wait_readable(epoll.fileno())
    call()
