"""A listener that waits while the machine lacks file descriptors or memory, and that accepts new
certificates."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import Final

import structlog
import trio

from trioserver.websocket.tls_stream import TLSStream

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Errors of accept(2) if file descriptors or memory are exhausted."""

_BATCH: Final = 16
"""Maximum connections that are accepted in one round."""

_PAUSE: Final = 0.1
"""Seconds until the next attempt; meanwhile connections wait in the kernel's queue."""

_RECOVERY_WINDOW: Final = 1.0
"""Seconds without such an error after which accepting counts as resumed. A single success is not
enough: at the limit, each client that disconnects makes room for one."""

_log: Final = structlog.get_logger("trioserver")


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts connections of one socket, over TLS where ``tls`` is not None.

    Those that wait in the kernel's queue are taken in batches: one in a round of Trio's loop would
    keep thousands that come at once waiting for thousands of rounds. ``tls`` may be replaced by
    another context, which counts from the next handshake on.
    """

    def __init__(self, transport: trio.SocketListener, tls: ssl.SSLContext | None = None) -> None:
        self.transport = transport
        self.tls = tls
        self._exhausted: tuple[float, float] | None = None  # since when, and the last time
        # A second object for the same file descriptor, because Trio's cannot accept without a wait.
        self._socket = socket.socket(fileno=transport.socket.fileno())
        self._socket.setblocking(False)  # it has its own idea of that: `socket.setdefaulttimeout`
        self._batch: deque[trio.SocketStream] = deque()

    async def accept(self) -> trio.abc.Stream:
        """As of `trio.abc.Listener`, but no checkpoint within a batch. While file descriptors are
        short it waits, and says so once.

        The TLS handshake begins with the first byte that is asked for: its deadline is the
        caller's.
        """
        while True:
            try:
                stream = self._batch.popleft() if self._batch else await self._wait()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error.errno)
                await trio.sleep(_PAUSE)
                continue
            self._resume()
            if self.tls is None:
                return stream
            return TLSStream(stream, self.tls)

    async def _wait(self) -> trio.SocketStream:
        """Return the next connection, and keep those that wait behind it for the next calls."""
        stream = await self.transport.accept()
        if self.transport.socket.fileno() != self._socket.fileno():
            return stream  # closed meanwhile: its number may belong to another socket now
        with suppress(OSError):  # usually no more wait; other errors come again
            while len(self._batch) < _BATCH - 1:
                accepted = trio.socket.from_stdlib_socket(self._socket.accept()[0])
                self._batch.append(trio.SocketStream(accepted))
        return stream

    def _pause(self, number: int) -> None:
        now = trio.current_time()
        if self._exhausted is None:
            self._exhausted = (now, now)
            _log.error("accepting_paused", reason=os.strerror(number))
        self._exhausted = (self._exhausted[0], now)

    def _resume(self) -> None:
        if (
            self._exhausted is not None
            and trio.current_time() - self._exhausted[1] >= _RECOVERY_WINDOW
        ):
            begun, last = self._exhausted
            _log.info("accepting_resumed", seconds=round(last - begun, 1))
            self._exhausted = None

    async def aclose(self) -> None:
        """As of `trio.abc.AsyncResource`."""
        if self._socket.fileno() >= 0:
            self._socket.detach()
        while self._batch:
            self._batch.popleft().socket.close()
        await self.transport.aclose()
