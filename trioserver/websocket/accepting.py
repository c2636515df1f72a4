"""A listener that lasts: it waits where the machine runs out of something, and takes new keys."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Final

import structlog
import trio

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""What accept(2) says when there are no more file descriptors, or is no memory."""

_PAUSE: Final = 0.1
"""Seconds until it is tried again; meanwhile connections wait in the kernel's queue."""

_CALM: Final = 1.0
"""Seconds without it after which it is over. At the limit one peer that leaves lets one in."""

_log: Final = structlog.get_logger("trioserver")


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts connections of one socket, over TLS where ``tls`` is not None.

    ``tls`` may be replaced by another context, which counts from the next handshake on.
    """

    def __init__(self, transport: trio.SocketListener, tls: ssl.SSLContext | None = None) -> None:
        self.transport = transport
        self.tls = tls
        self._exhausted: tuple[float, float] | None = None  # since when, and the last time

    async def accept(self) -> trio.abc.Stream:
        """As of `trio.abc.Listener`. While file descriptors are short it waits, and says so once.

        The TLS handshake begins with the first byte that is asked for: its deadline is the
        caller's.
        """
        while True:
            try:
                stream = await self.transport.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._pause(error.errno)
                await trio.sleep(_PAUSE)
                continue
            self._resume()
            if self.tls is None:
                return stream
            return trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)

    def _pause(self, number: int) -> None:
        now = trio.current_time()
        if self._exhausted is None:
            self._exhausted = (now, now)
            _log.error("accepting_paused", reason=os.strerror(number))
        self._exhausted = (self._exhausted[0], now)

    def _resume(self) -> None:
        if self._exhausted is not None and trio.current_time() - self._exhausted[1] >= _CALM:
            begun, last = self._exhausted
            _log.info("accepting_resumed", seconds=round(last - begun, 1))
            self._exhausted = None

    async def aclose(self) -> None:
        """As of `trio.abc.AsyncResource`."""
        await self.transport.aclose()
