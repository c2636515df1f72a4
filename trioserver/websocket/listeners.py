"""Listening sockets: TCP, TLS over TCP, Unix."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trio

_BACKLOG: Final = 4096
"""Connections the kernel keeps for us in a reconnect storm; it caps the number at its own."""

_TRIES: Final = 8

Listener: TypeAlias = trio.SocketListener | trio.SSLListener[trio.SocketStream]


class CannotListen(Exception):
    """An address cannot be had; the text says which, and what to do."""


@attrs.frozen
class Address:
    """Where the server can be reached. ``host`` is a Unix socket's path when ``port`` is None."""

    host: str
    port: int | None
    secure: bool = False

    def __str__(self) -> str:
        if self.port is None:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """ws:// or wss://, with an address that can be connected to from here."""
        if self.port is None:
            return f"ws+unix://{self.host}"
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"ws{'s' * self.secure}://{Address(local, self.port)}"


async def open_tcp(host: str, port: int, tls: ssl.SSLContext | None) -> list[Listener]:
    """Listen on all addresses of ``host``; port 0 picks one free port for all. `CannotListen`."""
    try:
        listeners = await _open_on_one_port(host, port)
    except (OSError, UnicodeError) as error:
        raise CannotListen(
            f"cannot listen on {host}, port {port}: {_reason(error)}; choose another with --port, "
            "or 0 for a free one"
        ) from None
    if tls is None:
        return list(listeners)
    return [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]


async def _open_on_one_port(host: str, port: int) -> list[trio.SocketListener]:
    """Where port 0 gave the addresses of ``host`` different ports, take the first for all."""
    for _ in range(_TRIES):
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
        ports = [listener.socket.getsockname()[1] for listener in listeners]
        if len(set(ports)) == 1:
            return listeners
        for listener in listeners:
            listener.socket.close()
        with suppress(OSError):  # taken by somebody else at another of the addresses
            return await trio.open_tcp_listeners(ports[0], host=host, backlog=_BACKLOG)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: Exception) -> str:
    """What is wrong, in words; those of getaddrinfo and of Python itself are in the text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.strerror or type(error).__name__
    return str(error)


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and up. Raises `CannotListen` for files that do not do."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # The empty password: an encrypted key is an error, not a question on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise CannotListen(
            f"cannot use the certificate {certificate} with the key {key}: {_reason(error)}"
        ) from None
    return context


async def open_unix(path: Path) -> list[Listener]:
    """Listen on a Unix socket; one that a dead server left is replaced. `CannotListen`."""
    if await _is_stale(path):
        await trio.Path(path).unlink(missing_ok=True)
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await socket.bind(str(path))
        await trio.Path(path).chmod(0o660)  # before anybody can connect
        socket.listen(_BACKLOG)
    except BaseException as error:
        socket.close()
        if isinstance(error, OSError):
            raise CannotListen(f"cannot listen on {path}: {_reason(error)}") from None
        raise
    return [trio.SocketListener(socket)]


async def _is_stale(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK((await trio.Path(path).stat()).st_mode):
            return False
    except OSError:
        return False
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


async def close(listener: Listener) -> None:
    """Stop listening. A second time changes nothing."""
    with trio.CancelScope(shield=True):  # nothing here waits for a peer
        await listener.aclose()


@attrs.frozen
class SocketFile:
    """A Unix socket's file, as it was made: another server may have put its own in its place."""

    path: Path
    inode: int

    @classmethod
    async def of(cls, address: Address) -> SocketFile:
        """The file of a listener that has just been opened."""
        return cls(Path(address.host), (await trio.Path(address.host).stat()).st_ino)

    async def remove(self) -> None:
        """Remove it, if it is still this one; file systems use a number again, so ask as well."""
        path = trio.Path(self.path)
        with trio.CancelScope(shield=True), suppress(OSError):
            if (await path.stat()).st_ino == self.inode and await _is_stale(self.path):
                await path.unlink()


def address_of(listener: Listener) -> Address:
    """Where a listener listens."""
    secure = isinstance(listener, trio.SSLListener)
    inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    assert isinstance(inner, trio.SocketListener)
    if inner.socket.family == stdlib_socket.AF_UNIX:
        return Address(str(inner.socket.getsockname()), None)
    host, port = inner.socket.getsockname()[:2]
    return Address(str(host), int(port), secure)


def remote_of(stream: trio.abc.Stream) -> str:
    """Who is on the other end of an accepted stream: "host:port", "unix", "" where unknown."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(transport, trio.SocketStream):
        return ""
    if transport.socket.family == stdlib_socket.AF_UNIX:
        return "unix"
    try:
        host, port = transport.socket.getpeername()[:2]
    except OSError:
        return ""
    return str(Address(host, port))
