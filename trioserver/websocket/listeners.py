"""Listening sockets: TCP, TLS over TCP, Unix."""

from __future__ import annotations

import os
import socket as stdlib_socket
import ssl
import stat
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trio

_BACKLOG: Final = 4096
"""Connections the kernel keeps for us in a reconnect storm; it caps the number at its own."""

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
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise CannotListen(
            f"cannot listen on {host}, port {port}: {reason}; choose another with --port, or 0 for "
            "a free one"
        ) from None
    if tls is None:
        return list(listeners)
    return [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and up. Raises `CannotListen` for files that do not do."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(
            f"cannot use the certificate {certificate} with the key {key}: "
            f"{error.strerror or error.__class__.__name__}"
        ) from None
    return context


async def open_unix(path: Path) -> list[Listener]:
    """Listen on a Unix socket; one that a dead server left is replaced. `CannotListen`."""
    if await _is_stale(path):
        await trio.Path(path).unlink(missing_ok=True)
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await socket.bind(str(path))
        await trio.Path(path).chmod(0o660)
    except OSError as error:
        socket.close()
        raise CannotListen(f"cannot listen on {path}: {error.strerror}") from None
    socket.listen(_BACKLOG)
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
    """Stop listening; a Unix socket's file goes too. A second time changes nothing."""
    inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    assert isinstance(inner, trio.SocketListener)
    with trio.CancelScope(shield=True):  # nothing here waits for a peer
        if inner.socket.fileno() >= 0 and inner.socket.family == stdlib_socket.AF_UNIX:
            await trio.Path(inner.socket.getsockname()).unlink(missing_ok=True)
        await listener.aclose()


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
