"""Reading and writing a stream's socket without waiting, for callers outside of a task."""

from __future__ import annotations

import os
from typing import Protocol

import trio

from trioserver.websocket.tls_stream import TLSStream


class NonblockingStream(Protocol):
    """A stream that is a socket. Its methods raise `OSError`, and do not block."""

    def fileno(self) -> int:
        """Return the descriptor, -1 after the stream was closed."""

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """Return what can be read, empty at the end, None if there is nothing to read.

        A TLS record is returned whole, whatever ``max_bytes`` is.
        """

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Return how many bytes the socket accepted."""


class _PlainSocket:
    """A socket without TLS.

    Its descriptor is looked up at each use: after the owner of the stream has closed it, the number
    soon belongs to another socket.
    """

    __slots__ = ("_socket",)

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket

    def fileno(self) -> int:
        return self._socket.fileno()

    def read_nowait(self, max_bytes: int) -> bytes | None:
        try:
            return os.read(self._socket.fileno(), max_bytes)
        except BlockingIOError:
            return None

    def write_nowait(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0


def nonblocking(stream: trio.abc.Stream) -> NonblockingStream | None:
    """Return the stream for use without waiting; None if it has no socket, or Trio's own TLS."""
    if isinstance(stream, TLSStream):
        return stream
    return _PlainSocket(stream.socket) if isinstance(stream, trio.SocketStream) else None
