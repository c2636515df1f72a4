"""`Transport`: a client's non-blocking socket, with or without TLS, that needs no task."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from trioserver.load.target import ResolvedAddress

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Bytes that may wait for a server that does not read. Above it, no request is sent."""

_RECEIVE_BYTES: Final = 64 * 1024
_TLS_RECORD_BYTES: Final = 16 * 1024

_RESET: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
"""Close with a reset, so that thousands of connections do not keep their ports for a minute."""

_SMALL_BUFFER: Final = 4096
"""Bytes, for slow readers; the kernel doubles it."""

_NOT_NOW: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport:
    """A socket; create it with `open`. Methods raise `OSError`, also for TLS errors.

    ``on_blocked`` is called when data waits to be sent; it must cause `flush` to be called as soon
    as the socket is writable. ``unwatch`` is called once, before the socket is closed or when it
    must not be read any more.
    """

    __slots__ = (
        "_incoming", "_outgoing", "_tls", "_unsent", "blocked", "on_blocked",
        "received", "sock", "unwatch",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, on_blocked: Callable[[], None]) -> None:
        self.sock = sock
        self.blocked = False
        self.received = 0  # bytes
        self.on_blocked = on_blocked
        self.unwatch: Callable[[], None] | None = None
        self._unsent = bytearray()  # for the socket, or, before TLS is up, for TLS
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    @classmethod
    async def open(
        cls, address: ResolvedAddress, on_blocked: Callable[[], None], *, small_buffer: bool = False
    ) -> Transport:
        """Connect. The socket is closed if this is cancelled or raises `OSError`."""
        family, sockaddr = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if small_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            with suppress(BlockingIOError):
                sock.connect(sockaddr)
            await trio.lowlevel.wait_writable(sock)
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                raise OSError(failed, "")
        except BaseException:
            sock.close()
            raise
        return cls(sock, on_blocked)

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS. Data is sent after the TLS handshake."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._shake_hands()

    @property
    def closed(self) -> bool:
        """Whether `reset` has closed it."""
        return self.sock.fileno() == -1

    @property
    def full(self) -> bool:
        """Whether more than `MAX_UNSENT_BYTES` wait to be sent."""
        return len(self._unsent) > MAX_UNSENT_BYTES

    # -------------------------------------------------------------------------- receiving

    def receive(self) -> bytes | None:
        """Read what has arrived; empty if nothing has, None at the end of the stream."""
        try:
            data = self.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        self.received += len(data)
        if self._tls is None:
            return data or None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return self._decrypt(self._tls) or (b"" if data else None)

    def _decrypt(self, tls: ssl.SSLObject) -> bytes:
        if tls.version() is None:
            self._shake_hands()
        pieces: list[bytes] = []
        # The socket reports the end of the connection, with or without a close_notify.
        with suppress(*_NOT_NOW, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            while piece := tls.read(_TLS_RECORD_BYTES):
                pieces.append(piece)
        self._send_encrypted()
        return b"".join(pieces)

    def _shake_hands(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except _NOT_NOW:
            self._send_encrypted()
        else:
            waiting, self._unsent = bytes(self._unsent), bytearray()
            if waiting:
                self._tls.write(waiting)
            self._send_encrypted()

    @property
    def peer_closed(self) -> bool:
        """Whether the server has ended the connection, without reading from it.

        On systems without POLLRDHUP only a reset is detected.
        """
        poll = select.poll()
        poll.register(self.sock, getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))

    # -------------------------------------------------------------------------- sending

    def send(self, data: bytes) -> None:
        """Send what the socket accepts now, and the rest when it is writable."""
        if self._tls is None:
            self._send_raw(data)
        elif self._tls.version() is None:
            self._unsent += data
        else:
            self._tls.write(data)
            self._send_encrypted()

    def _send_encrypted(self) -> None:
        if self._outgoing.pending:
            data = self._outgoing.read()
            # Before TLS is up ``_unsent`` is its plain text; handshakes fit any socket's buffer.
            if self._tls is not None and self._tls.version() is None:
                self.sock.send(data)
            else:
                self._send_raw(data)

    def _send_raw(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent += data[sent:]
            self.blocked = True
            self.on_blocked()

    def flush(self) -> None:
        """Send what waits: the socket is writable."""
        with suppress(BlockingIOError):
            del self._unsent[: self.sock.send(self._unsent)]
        self.blocked = bool(self._unsent)

    # -------------------------------------------------------------------------- the end

    def stop_watching(self) -> None:
        """Stop watching the socket. Calling it again has no effect."""
        unwatch, self.unwatch = self.unwatch, None
        if unwatch is not None:
            unwatch()

    def reset(self) -> None:
        """Close with a reset. Calling it again has no effect."""
        if not self.closed:
            self.stop_watching()
            trio.lowlevel.notify_closing(self.sock)
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
