"""A client's socket, plain or with TLS, which never blocks and needs no task of its own."""

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

from trioserver.load.target import Place

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""What may wait for a server that does not read; beyond it a request is not sent."""

_RECEIVE_BYTES: Final = 64 * 1024
_TLS_RECORD_BYTES: Final = 16 * 1024

_RESET: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
"""Close with a reset: thousands of closed connections must not keep their ports for a minute."""

_SMALL_BUFFER: Final = 4096
"""For those that never read; the kernel doubles it."""

_NOT_NOW: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport:
    """Opened by `open`. Methods raise `OSError` (of which TLS's errors are some) when it is over.

    ``on_blocked`` is called when something waits to be sent, and has to see to it that `flush`
    is called as soon as the socket can be written. ``unwatch`` is called once, before the socket is
    closed or when nobody is to read from it any more.
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
        cls, place: Place, on_blocked: Callable[[], None], *, small_buffer: bool = False
    ) -> Transport:
        """Connect. Cancelled, or at an `OSError`, nothing is left open."""
        family, sockaddr = place
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
        """Begin TLS. What is sent from now on leaves when the handshake is done."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._shake_hands()

    @property
    def closed(self) -> bool:
        """Whether it has been closed here."""
        return self.sock.fileno() == -1

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should be sent."""
        return len(self._unsent) > MAX_UNSENT_BYTES

    # -------------------------------------------------------------------------- receiving

    def receive(self) -> bytes | None:
        """What has arrived; empty where nothing has yet, None at the end."""
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
        # The end of a connection, with its close_notify or without, is told by the socket.
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
    def gone(self) -> bool:
        """Whether the server has ended the connection, told without reading from it.

        Where the system does not tell of an end that comes behind unread data, only of a reset.
        """
        poll = select.poll()
        poll.register(self.sock, getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))

    # -------------------------------------------------------------------------- sending

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, the rest when it takes more."""
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
        """The socket can be written: send what waits."""
        with suppress(BlockingIOError):
            del self._unsent[: self.sock.send(self._unsent)]
        self.blocked = bool(self._unsent)

    # -------------------------------------------------------------------------- the end

    def stop_watching(self) -> None:
        """Let nobody read. A second time changes nothing."""
        unwatch, self.unwatch = self.unwatch, None
        if unwatch is not None:
            unwatch()

    def reset(self) -> None:
        """Close at once, without a word. A second time changes nothing."""
        if not self.closed:
            self.stop_watching()
            trio.lowlevel.notify_closing(self.sock)
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
