"""One task polls all sockets, with an epoll object inside of Trio's own.

To arm Trio's epoll for each message, and to wake a task for each, costs more than everything else
that is done for a short message. Here all sockets stay armed, level-triggered, in an epoll object
of their own. One task waits until that object is readable, and serves every socket that is ready.
Linux only: elsewhere, and for streams that are not sockets, each WebSocket's own task reads.

Ready sockets are served in batches: all are read, then all that came is handled, then all answers
are sent. A system call costs a short message more than the time it takes, because it displaces
what the interpreter had in the processor's caches. To read, handle and answer each socket in turn
is a third slower.
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

_BATCH_SOCKETS: Final = 64
"""Sockets that are read before the first of them is handled. With fewer, batches save less; with
more, answers wait for longer."""

_ROUND_SECONDS: Final = 0.0005
"""Seconds for which batches are served, as long as sockets are ready, before other tasks run.

A tick of Trio's loop costs more than a short message. Fast clients send their next message while
others are served, so that one tick serves many of them."""

_STARTS_PER_ROUND: Final = 16
"""Tasks that are started in a round. If thousands of clients disconnect at once, each needs a task,
and a millisecond: started all together they would delay the others by seconds."""

_LONG_HANDLING: Final = 0.005
"""Seconds of CPU time after which the next large message has to wait."""

_LARGE_PAUSE_FACTOR: Final = 3.0
"""The next large message waits for this many times the CPU time of the last one. Small messages are
served meanwhile. So they wait for one large message at most, and most of them for none."""

_MAX_LARGE_PAUSE: Final = 0.25
"""Seconds of that wait at most: thousands of large messages have to be handled, too."""

_log: Final = structlog.get_logger("trioserver")


class PollHandler(Protocol):
    """What a `SocketPoller` calls for one socket. Plain functions, which must not block."""

    def read_nowait(self) -> bytes | None:
        """Return what can be read: empty at the end, None if there is nothing to handle."""

    def receive_nowait(self, data: bytes, now: float) -> None:
        """Handle what was read, at Trio's time ``now``; answers may be held back."""

    def flush_nowait(self) -> bool:
        """Send what was held back.

        Return False if a task is about to add to it. Then this is called again when tasks have run.
        """


class SocketPoller:
    """Calls the `PollHandler` of each socket that is ready, while `run` runs.

    ``in_batch`` is true while a batch is served or will be served within this tick. Only then may
    `defer_flush` be called.
    """

    def __init__(self) -> None:
        assert sys.platform == "linux"
        self._epoll = select.epoll()
        self._handlers: dict[int, PollHandler] = {}
        self._hangups: dict[int, Callable[[], None]] = {}
        self.in_batch = False
        self._waiting: list[PollHandler] = []  # of tasks, which run before the next round
        self._deferred: list[PollHandler] = []  # of the rest of this batch
        self._starts: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._may_start = 0
        self._large: deque[Callable[[], None]] = deque()  # at most one of each socket
        self._large_due = 0.0  # by Trio's clock
        self._large_started = False  # in the last round

    def __len__(self) -> int:
        return len(self._handlers)

    def watch(self, fd: int, handler: PollHandler) -> None:
        """Call ``handler`` in each round in which its socket can be read, or the peer has ended.

        If it raises, the socket is no longer watched, and the error is logged.
        """
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def unwatch(self, fd: int, handler: PollHandler) -> None:
        """Undo `watch`, before the socket is closed. What was read already is still handled.

        A second call changes nothing.
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
        """Undo `watch_hangup`. A second call changes nothing."""
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
        """Call ``start``, which starts a task: now, or in a later round if many are started.

        For handlers that have called `unwatch`.
        """
        if self._may_start > 0:
            self._may_start -= 1
            start()
        else:
            self._starts.append(start)

    def schedule_large_start(self, start: Callable[[], None]) -> None:
        """Call ``start``, which starts a task that handles a large message.

        One is started in a round, and fewer if they take long, so that many large messages do not
        delay small ones.
        """
        self._large.append(start)

    def record_duration(self, seconds: float) -> None:
        """Record the CPU time for which a task has just handled messages without a checkpoint."""
        if seconds > _LONG_HANDLING:
            self._large_due = trio.current_time() + min(
                _LARGE_PAUSE_FACTOR * seconds, _MAX_LARGE_PAUSE
            )

    async def run(self) -> None:
        """Serve until cancelled. A batch reads each socket once, so a flood on one starves none."""
        try:
            while True:
                if self._starts or self._waiting or self._deferred:
                    await trio.lowlevel.checkpoint()
                elif self._large:
                    await self._wait_ready_or_due()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                # Most rounds have one message: each call that is not needed is a part of its cost.
                self.in_batch = True
                if self._waiting:
                    self._deferred += self._waiting
                    self._waiting.clear()
                if self._deferred:
                    self._flush_deferred()
                self._may_start = _STARTS_PER_ROUND
                if self._starts or self._large or self._large_started:
                    self._start_some()
                round_ends = perf_counter() + _ROUND_SECONDS
                while self._serve_ready() and perf_counter() < round_ends:
                    pass
                self.in_batch = bool(self._waiting or self._deferred)
        finally:
            self.in_batch = False
            self._deferred += self._waiting
            self._flush_deferred()
            self._epoll.close()

    async def _wait_ready_or_due(self) -> None:
        """Wait until a socket is ready, or the next large message is due."""
        with trio.move_on_at(self._large_due):
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _flush_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for handler in deferred:
            self._flush(handler)

    def _start_some(self) -> None:
        while self._starts and self._may_start > 0:
            self._may_start -= 1
            self._call(self._starts.popleft())
        # The task that was started in the last round may run only after this one.
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
        """Serve one batch; return False if no socket is ready."""
        events = self._epoll.poll(0, _BATCH_SOCKETS)
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
        if self._deferred:
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
    """Return a poller for this event loop, None if the platform has no epoll."""
    return SocketPoller() if sys.platform == "linux" else None
