"""Readiness of all plain sockets in one place: an epoll object inside of Trio's own.

Arming Trio's epoll for each message and waking a task for each costs more than everything else
that is done for a short message. Here all sockets stay armed, level-triggered, in an epoll object
of their own; one task waits for *it* to be readable, and serves every socket that is. Linux only:
elsewhere, and for streams that are no plain sockets, each WebSocket's own task reads.
"""

from __future__ import annotations

import select
import sys
import traceback
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

import structlog
import trio

_EVENTS_PER_POLL: Final = 256

_TURN: Final = 0.0005
"""Seconds for which sockets are served, while there are any, before other tasks get their turn.

A tick of Trio's loop costs more than a short message does. Clients that are fast send their next
message while others are being served, so that one tick serves many of them."""

_STARTS: Final = 16
"""Tasks that are started in a round. Thousands of clients that leave at once each need one, and a
millisecond: started all together they would keep the others waiting for seconds."""

_log: Final = structlog.get_logger("trioserver")


class Readiness:
    """Calls a plain function whenever its socket can be read. `run` has to run."""

    def __init__(self) -> None:
        assert sys.platform == "linux"
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._starts: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._may_start = 0

    def __len__(self) -> int:
        return len(self._callbacks)

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        """Call ``readable`` in each tick in which something can be read, or the peer has gone.

        It must not block. If it raises, its socket is watched no more, and a line is logged.
        """
        self._callbacks[fd] = readable
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def unwatch(self, fd: int, readable: Callable[[], None]) -> None:
        """Call no more; to be done before the socket is closed. A second time changes nothing."""
        if self._callbacks.get(fd) is readable:
            del self._callbacks[fd]
            if not self._epoll.closed:
                self._epoll.unregister(fd)

    def start_in_turn(self, start: Callable[[], None]) -> None:
        """Call ``start``, which starts a task: now, or in a later round where many are started.

        For callbacks that have unwatched their socket.
        """
        if self._may_start > 0:
            self._may_start -= 1
            start()
        else:
            self._starts.append(start)

    async def run(self) -> None:
        """Serve until cancelled. Each round reads every socket once, so a flood starves nobody."""
        with self._epoll:
            while True:
                if self._starts:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._may_start = _STARTS
                while self._starts and self._may_start > 0:
                    self._may_start -= 1
                    self._starts.popleft()()
                turn_ends = perf_counter() + _TURN
                while self._serve_ready() and perf_counter() < turn_ends:
                    pass

    def _serve_ready(self) -> bool:
        """Serve what is ready; False where nothing is."""
        events = self._epoll.poll(0, _EVENTS_PER_POLL)
        for fd, _ in events:
            readable = self._callbacks.get(fd)
            if readable is not None:
                self._serve(fd, readable)
        return bool(events)

    def _serve(self, fd: int, readable: Callable[[], None]) -> None:
        try:
            readable()
        except Exception:
            _log.error("readiness_callback_failed", traceback=traceback.format_exc())
            self.unwatch(fd, readable)


def make_readiness() -> Readiness | None:
    """One for this process's event loop, None where there is no epoll."""
    return Readiness() if sys.platform == "linux" else None


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """The socket of a stream that is nothing but a socket; None for TLS and the like."""
    return stream.socket if isinstance(stream, trio.SocketStream) else None
