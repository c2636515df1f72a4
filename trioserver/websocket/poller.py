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


class Source(Protocol):
    """Whose socket it is. Plain functions, which must not block."""

    def read_now(self) -> bytes | None:
        """What there is to read; empty at the end; None for nothing to handle."""

    def take_now(self, data: bytes, now: float) -> None:
        """Handle what was read, at Trio's time ``now``; answers may be held back."""

    def send_now(self) -> bool:
        """Send what was held back; False where a task is about to add to it, which is waited for:
        then this is called again when tasks have had their turn."""


class Readiness:
    """Serves each `Source` whose socket can be read. `run` has to run.

    ``turn_is_coming`` says that who uses `hold` now is asked to send within a tick.
    """

    def __init__(self) -> None:
        assert sys.platform == "linux"
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}
        self._hangups: dict[int, Callable[[], None]] = {}
        self.turn_is_coming = False
        self._waiting: list[Source] = []  # for tasks, which have their turn before the next round
        self._holding: list[Source] = []  # for whatever else comes in this step
        self._starts: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._may_start = 0
        self._large: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._large_due = 0.0  # by Trio's clock
        self._large_started = False  # in the last round

    def __len__(self) -> int:
        return len(self._sources)

    def watch(self, fd: int, source: Source) -> None:
        """Serve ``source`` in each round in which something can be read, or the peer has gone.

        If it raises, its socket is watched no more, and a line is logged.
        """
        self._sources[fd] = source
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def unwatch(self, fd: int, source: Source) -> None:
        """Serve it no more, but for what was read already; to be done before the socket is closed.

        A second time changes nothing.
        """
        if self._sources.get(fd) is source:
            del self._sources[fd]
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

    def hold(self, source: Source) -> None:
        """Call `Source.send_now` in the turn that is coming, when others may have added to what it
        holds back: what many tasks and messages send to one client leaves in one call."""
        self._holding.append(source)

    def start_in_turn(self, start: Callable[[], None]) -> None:
        """Call ``start``, which starts a task: now, or in a later round where many are started.

        For sources that have unwatched their socket.
        """
        if self._may_start > 0:
            self._may_start -= 1
            start()
        else:
            self._starts.append(start)

    def start_large_in_turn(self, start: Callable[[], None]) -> None:
        """As `start_in_turn`, for a task that handles a large message: one in a round, and fewer
        where they take long, so that many of them do not keep small messages waiting."""
        self._large.append(start)

    def held(self, seconds: float) -> None:
        """A task has just handled messages, for this long of CPU time, without a pause."""
        if seconds > _LONG:
            self._large_due = trio.current_time() + min(_REST * seconds, _LONGEST_REST)

    async def run(self) -> None:
        """Serve until cancelled. Each round reads every socket once, so a flood starves nobody."""
        try:
            while True:
                if self._starts or self._waiting or self._holding:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._wait_ready()
                self.turn_is_coming = True
                self._holding += self._waiting
                self._waiting.clear()
                self._send_held()
                self._start_some()
                turn_ends = perf_counter() + _TURN
                while self._serve_ready() and perf_counter() < turn_ends:
                    pass
                self.turn_is_coming = bool(self._waiting or self._holding)
        finally:
            self.turn_is_coming = False
            self._holding += self._waiting
            self._send_held()
            self._epoll.close()

    async def _wait_ready(self) -> None:
        """Until a socket is ready, or the next large message is due."""
        if not self._large:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            return
        with trio.move_on_at(self._large_due):
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _send_held(self) -> None:
        holding, self._holding = self._holding, []
        for source in holding:
            self._send(source)

    def _start_some(self) -> None:
        self._may_start = _STARTS
        while self._starts and self._may_start > 0:
            self._may_start -= 1
            self._start(self._starts.popleft())
        # The task that was started in the last round may have its turn only after this one.
        if self._large_started:
            self._large_started = False
        elif self._large and trio.current_time() >= self._large_due:
            self._large_started = True
            self._start(self._large.popleft())

    def _start(self, start: Callable[[], None]) -> None:
        try:
            start()
        except Exception as error:
            _log.error("poll_handler_failed", traceback=traceback_of(error))

    def _serve_ready(self) -> bool:
        """Serve what is ready; False where nothing is."""
        events = self._epoll.poll(0, _STEP)
        if not events:
            return False
        came: list[tuple[Source, bytes]] = []
        for fd, _ in events:
            source = self._sources.get(fd)
            if source is not None:
                self._read(fd, source, came)
            elif fd in self._hangups:
                call = self._hangups[fd]
                self.unwatch_hangup(fd, call)
                call()
        now = trio.current_time()
        for source, data in came:
            self._take(source, data, now)
        self._send_held()
        for source, _ in came:
            self._send(source)
        return True

    def _read(self, fd: int, source: Source, came: list[tuple[Source, bytes]]) -> None:
        try:
            data = source.read_now()
        except Exception as error:
            self._failed(source, error)
        else:
            if data is not None:
                came.append((source, data))

    def _take(self, source: Source, data: bytes, now: float) -> None:
        try:
            source.take_now(data, now)
        except Exception as error:
            self._failed(source, error)

    def _send(self, source: Source) -> None:
        try:
            if not source.send_now():
                self._waiting.append(source)
        except Exception as error:
            self._failed(source, error)

    def _failed(self, source: Source, error: Exception) -> None:
        _log.error("poll_handler_failed", traceback=traceback_of(error))
        for fd, other in [*self._sources.items()]:
            if other is source:
                self.unwatch(fd, source)


def make_readiness() -> Readiness | None:
    """One for this process's event loop, None where there is no epoll."""
    return Readiness() if sys.platform == "linux" else None
