"""TLS directly on a socket, so that whoever waits for many sockets at once can serve it as well.

Trio's own TLS stream passes all bytes through buffers in memory, and only tasks can wait for it.
Here OpenSSL reads from the socket and writes to it: what has not been read is still the kernel's,
where an epoll object sees it, and what the peer does not take is still the caller's.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import index
from typing import Any, Final, Literal, TypeAlias, TypeGuard, TypeVar

import trio

_T = TypeVar("_T")

Socket: TypeAlias = trio.socket.SocketType | ssl.SSLSocket

_RECORD_BYTES: Final = 16 * 1024
"""The most that a record holds (RFC 8446, section 5.1). A read of as much leaves nothing where only
OpenSSL knows of it."""


class TLSStream(trio.abc.Stream):
    """The server's side of TLS on ``transport_stream``, which nobody else may use any more.

    The handshake begins with the first byte that is asked for. The peer may leave without saying
    so in TLS, as many do: what is in the frames inside says where a message ends. A reset is such
    an end too. In TLS 1.3 it is what the kernel sends for a peer that has read all of the
    application's data, but not the session tickets that came before it.
    """

    def __init__(self, transport_stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport_stream = transport_stream
        self._context = context
        self._socket: ssl.SSLSocket | None = None  # from the handshake on
        self._shaking: trio.Lock | None = trio.Lock()  # until the end of the handshake
        self._rest = b""  # of a record that was not wanted as a whole
        self._is_reading = self._is_writing = False

    @property
    def socket(self) -> Socket:
        """What can be asked for addresses, and waited for."""
        return self._socket or self.transport_stream.socket

    # -------------------------------------------------------------------------- for tasks

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As of `trio.abc.ReceiveStream`, after the handshake.

        Raises `trio.BrokenResourceError` with the `ssl.SSLError` as its cause.
        """
        size = _RECORD_BYTES if max_bytes is None else index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be positive")
        with self._alone("_is_reading"):
            shaken = await self._shake_hands()
            if self._rest:
                await trio.lowlevel.checkpoint()
            else:
                self._rest = await self._when_ready(partial(_read, shaken))
            data, self._rest = self._rest[:size], self._rest[size:]
            return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of `trio.abc.SendStream`. What has been cancelled must not be followed by other data.

        Raises `trio.BrokenResourceError` with the `ssl.SSLError` as its cause.
        """
        with self._alone("_is_writing"), memoryview(data) as left:
            shaken = await self._shake_hands()
            sent = 0
            while sent < len(left):
                with left[sent:] as rest:
                    sent += await self._when_ready(partial(shaken.write, rest))
            if not sent:
                await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """As of `trio.abc.SendStream`."""
        with self._alone("_is_writing"):
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.socket.fileno() < 0:
                raise trio.ClosedResourceError("the stream is closed")
            await trio.lowlevel.wait_writable(self.socket)

    async def aclose(self) -> None:
        """Close the socket, after one try to tell the peer that nothing more comes."""
        if self._socket is not None and self._socket.fileno() >= 0:
            with suppress(OSError, ValueError):
                self._socket.unwrap()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await self.transport_stream.aclose()

    async def _shake_hands(self) -> ssl.SSLSocket:
        """The socket, once the handshake is over, whoever has begun it."""
        if self._shaking is not None:
            async with self._shaking:
                if self._shaking is not None:
                    await self._when_ready(self._open().do_handshake)
                    self._shaking = None
        return self._open()

    def _open(self) -> ssl.SSLSocket:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("the stream is closed")
        if self._socket is None:
            plain = self.transport_stream.socket
            try:
                plain.getpeername()  # or else what comes next would read from it
                given = socket.socket(plain.family, plain.type, plain.proto, plain.detach())
                given.setblocking(False)
                self._socket = self._context.wrap_socket(
                    given, server_side=True, do_handshake_on_connect=False
                )
            except OSError as error:
                raise trio.BrokenResourceError("the peer has disconnected") from error
        return self._socket

    async def _when_ready(self, act: Callable[[], _T]) -> _T:
        """Do it as soon as the socket lets it be done."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self.socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError("TLS or its socket has failed") from error
            else:
                break
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    @contextmanager
    def _alone(self, flag: Literal["_is_reading", "_is_writing"]) -> Iterator[None]:
        if getattr(self, flag):
            raise trio.BusyResourceError("another task is using the stream")
        setattr(self, flag, True)
        try:
            yield
        finally:
            setattr(self, flag, False)

    # -------------------------------------------------------------------------- without waiting

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 after it was closed. The handshake replaces it."""
        return self.socket.fileno()

    def read_nowait(self, max_bytes: int = _RECORD_BYTES) -> bytes | None:
        """Return what can be read of one record: empty at the end, None if there is nothing.

        A record is returned whole, whatever ``max_bytes`` is. For after the handshake, if nothing
        but whole records was read before. Raises `OSError`.
        """
        try:
            return _read(self._still_open())
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what the socket accepts; return how many bytes of ``data`` that was.

        The rest has to be what is written next. Raises `OSError`.
        """
        try:
            return self._still_open().write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _still_open(self) -> ssl.SSLSocket:
        assert self._socket is not None
        if self._socket.fileno() < 0:
            raise OSError(errno.EBADF, "the stream is closed")
        return self._socket

    # -------------------------------------------------------------------------- who it is

    def getpeercert(self, *, binary_form: bool = False) -> Any:
        """As of `ssl.SSLSocket`. Raises `trio.NeedHandshakeError`."""
        if self._shaking is not None:
            raise trio.NeedHandshakeError("the TLS handshake has not finished")
        return self._open().getpeercert(binary_form)


def _read(socket: ssl.SSLSocket) -> bytes:
    """One record at the most. Python before 3.13 reports a reset as the end, later ones raise."""
    try:
        return socket.read(_RECORD_BYTES)
    except ConnectionResetError:
        return b""


def is_secure(stream: trio.abc.Stream) -> TypeGuard[TLSStream | trio.SSLStream[Any]]:
    """Whether it is over TLS: ours, or Trio's, of whoever embeds the server."""
    return isinstance(stream, TLSStream | trio.SSLStream)


def socket_below(stream: trio.abc.Stream) -> Socket | None:
    """The socket that its bytes go through in the end, to be asked for addresses; else None."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream | TLSStream) else None
