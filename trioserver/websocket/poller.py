"""Readiness of all sockets in one place: an epoll object inside of Trio's own.

Arming Trio's epoll for each message and waking a task for each costs more than everything else
that is done for a short message. Here all sockets stay armed, level-triggered, in an epoll object
of their own; one task waits for *it* to be readable, and serves every socket that is. Linux only:
elsewhere, and for streams that are no sockets, each WebSocket's own task reads.

What is ready is served in steps: all are read, then all that came is handled, then all answers
leave. A system call costs a short message more than the time it takes, for it displaces what the
interpreter had in the processor's caches: reading, handling and answering one after the other, for
each socket in turn, is a third slower.
"""

from __future__ import annotations

import select
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final, Protocol

import structlog
import trio

from trioserver.logs.tracebacks import traceback_of

_STEP: Final = 64
"""Sockets that are read before the first of them is handled: as many as make the steps worth it,
and as few as do not keep an answer waiting."""

_TURN: Final = 0.0005
"""Seconds for which sockets are served, while there are any, before other tasks get their turn.

A tick of Trio's loop costs more than a short message does. Clients that are fast send their next
message while others are being served, so that one tick serves many of them."""

_STARTS: Final = 16
"""Tasks that are started in a round. Thousands of clients that leave at once each need one, and a
millisecond: started all together they would keep the others waiting for seconds."""

_LONG: Final = 0.005
_REST: Final = 3.0
"""Who handles a large message for more than so many seconds has the next large one wait, for so
many times as long. Small messages are served all the while, so that they wait for one large one at
the most, and three times of four for none."""

_LONGEST_REST: Final = 0.25
"""Seconds. Thousands of large messages have to come to an end as well."""

_log: Final = structlog.get_logger("trioserver")


class PollHandler(Protocol):
    """Whose socket it is. Plain functions, which must not block."""

    def read_nowait(self) -> bytes | None:
        """What there is to read; empty at the end; None for nothing to handle."""

    def receive_nowait(self, data: bytes, now: float) -> None:
        """Handle what was read, at Trio's time ``now``; answers may be held back."""

    def flush_nowait(self) -> bool:
        """Send what was held back; False where a task is about to add to it, which is waited for:
        then this is called again when tasks have had their turn."""


class SocketPoller:
    """Serves each `PollHandler` whose socket can be read. `run` has to run.

    ``in_batch`` says that who uses `defer_flush` now is asked to send within a tick.
    """

    def __init__(self) -> None:
        assert sys.platform == "linux"
        self._epoll = select.epoll()
        self._handlers: dict[int, PollHandler] = {}
        self._hangups: dict[int, Callable[[], None]] = {}
        self.in_batch = False
        self._waiting: list[
            PollHandler
        ] = []  # for tasks, which have their turn before the next round
        self._deferred: list[PollHandler] = []  # for whatever else comes in this step
        self._starts: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._may_start = 0
        self._large: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._large_due = 0.0  # by Trio's clock
        self._large_started = False  # in the last round

    def __len__(self) -> int:
        return len(self._handlers)

    def watch(self, fd: int, handler: PollHandler) -> None:
        """Serve ``handler`` in each round in which something can be read, or the peer has gone.

        If it raises, its socket is watched no more, and a line is logged.
        """
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def unwatch(self, fd: int, handler: PollHandler) -> None:
        """Serve it no more, but for what was read already; to be done before the socket is closed.

        A second time changes nothing.
        """
        if self._handlers.get(fd) is handler:
            del self._handlers[fd]
            self._unregister(fd)

    def _unregister(self, fd: int) -> None:
        if not self._epoll.closed:
            with suppress(OSError):  # its owner has closed it: the kernel watches it no more
                self._epoll.unregister(fd)

    def watch_hangup(self, fd: int, call: Callable[[], None]) -> None:
        """Call ``call`` once, as soon as the peer of this socket has ended (FIN or RST), whatever
        there is to read before that. For a socket that `watch` does not watch."""
        self._hangups[fd] = call
        self._epoll.register(fd, select.EPOLLRDHUP)

    def unwatch_hangup(self, fd: int, call: Callable[[], None]) -> None:
        """Undo `watch_hangup`. A second time changes nothing."""
        if self._hangups.get(fd) == call:
            del self._hangups[fd]
            self._unregister(fd)

    def defer_flush(self, handler: PollHandler) -> None:
        """Call `PollHandler.flush_nowait` at the end of the current batch.

        Other messages and tasks may send to the same client until then, and all of it leaves in
        one system call. Only while ``in_batch`` is true.
        """
        self._deferred.append(handler)

    def schedule_start(self, start: Callable[[], None]) -> None:
        """Call ``start``, which starts a task: now, or in a later round where many are started.

        For handlers that have unwatched their socket.
        """
        if self._may_start > 0:
            self._may_start -= 1
            start()
        else:
            self._starts.append(start)

    def schedule_large_start(self, start: Callable[[], None]) -> None:
        """As `schedule_start`, for a task that handles a large message: one in a round, and fewer
        where they take long, so that many of them do not keep small messages waiting."""
        self._large.append(start)

    def record_duration(self, seconds: float) -> None:
        """A task has just handled messages, for this long of CPU time, without a pause."""
        if seconds > _LONG:
            self._large_due = trio.current_time() + min(_REST * seconds, _LONGEST_REST)

    async def run(self) -> None:
        """Serve until cancelled. Each round reads every socket once, so a flood starves nobody."""
        try:
            while True:
                if self._starts or self._waiting or self._deferred:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._wait_ready()
                self.in_batch = True
                self._deferred += self._waiting
                self._waiting.clear()
                self._flush_deferred()
                self._start_some()
                turn_ends = perf_counter() + _TURN
                while self._serve_ready() and perf_counter() < turn_ends:
                    pass
                self.in_batch = bool(self._waiting or self._deferred)
        finally:
            self.in_batch = False
            self._deferred += self._waiting
            self._flush_deferred()
            self._epoll.close()

    async def _wait_ready(self) -> None:
        """Until a socket is ready, or the next large message is due."""
        if not self._large:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            return
        with trio.move_on_at(self._large_due):
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _flush_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for handler in deferred:
            self._flush(handler)

    def _start_some(self) -> None:
        self._may_start = _STARTS
        while self._starts and self._may_start > 0:
            self._may_start -= 1
            self._call(self._starts.popleft())
        # The task that was started in the last round may have its turn only after this one.
        if self._large_started:
            self._large_started = False
        elif self._large and trio.current_time() >= self._large_due:
            self._large_started = True
            self._call(self._large.popleft())

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            _log.error("poll_handler_failed", traceback=traceback_of(error))

    def _serve_ready(self) -> bool:
        """Serve what is ready; False where nothing is."""
        events = self._epoll.poll(0, _STEP)
        if not events:
            return False
        came: list[tuple[PollHandler, bytes]] = []
        for fd, _ in events:
            handler = self._handlers.get(fd)
            if handler is not None:
                self._read(fd, handler, came)
            elif fd in self._hangups:
                call = self._hangups[fd]
                self.unwatch_hangup(fd, call)
                self._call(call)
        now = trio.current_time()
        for handler, data in came:
            self._receive(handler, data, now)
        self._flush_deferred()
        for handler, _ in came:
            self._flush(handler)
        return True

    def _read(self, fd: int, handler: PollHandler, came: list[tuple[PollHandler, bytes]]) -> None:
        try:
            data = handler.read_nowait()
        except Exception as error:
            self._failed(handler, error)
        else:
            if data is not None:
                came.append((handler, data))

    def _receive(self, handler: PollHandler, data: bytes, now: float) -> None:
        try:
            handler.receive_nowait(data, now)
        except Exception as error:
            self._failed(handler, error)

    def _flush(self, handler: PollHandler) -> None:
        try:
            if not handler.flush_nowait():
                self._waiting.append(handler)
        except Exception as error:
            self._failed(handler, error)

    def _failed(self, handler: PollHandler, error: Exception) -> None:
        _log.error("poll_handler_failed", traceback=traceback_of(error))
        for fd, other in [*self._handlers.items()]:
            if other is handler:
                self.unwatch(fd, handler)


def make_poller() -> SocketPoller | None:
    """One for this process's event loop, None where there is no epoll."""
    return SocketPoller() if sys.platform == "linux" else None
