"""Listening sockets: TCP, TLS over TCP, Unix."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from trioserver.websocket.accepting import Listener
from trioserver.websocket.errors import ListenError, reason_of
from trioserver.websocket.tls_stream import socket_below

_BACKLOG: Final = 4096
"""Connections that the kernel queues in a reconnect storm; it caps this at its own limit."""

_TRIES: Final = 8

_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""All addresses of this machine, and the one by which it reaches itself."""


@attrs.frozen
class ListenAddress:
    """Where the server can be reached. ``host`` is a Unix socket's path when ``port`` is None."""

    host: str
    port: int | None
    secure: bool = False

    def __str__(self) -> str:
        if self.port is None:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_everywhere(self) -> bool:
        """Whether this stands for all addresses of the machine."""
        return self.host in _EVERYWHERE

    @property
    def url(self) -> str:
        """ws:// or wss://, with an address that can be connected to from here."""
        if self.port is None:
            return f"ws+unix://{self.host}"
        local = _EVERYWHERE.get(self.host, self.host)
        return f"ws{'s' * self.secure}://{ListenAddress(local, self.port)}"


async def open_tcp(
    host: str, port: int, tls: ssl.SSLContext | None, *, reuse_port: bool = False
) -> list[Listener]:
    """Listen on all addresses of ``host``; port 0 picks one free port for all.

    "::" is all addresses of this machine, of IPv4 too, each family on a socket of its own.
    ``reuse_port`` lets other processes of the same user that set it listen there as well.

    Raises `ListenError`.
    """
    try:
        transports = await _open_on_one_port(None if host == "::" else host, port, reuse_port)
    except (OSError, UnicodeError) as error:
        if isinstance(error, stdlib_socket.gaierror | UnicodeError):
            hint = "give a name or an address of this machine with --host"
        else:
            hint = "choose another with --port, or 0 for a free one"
        raise ListenError(
            f"cannot listen on {host}, port {port}: {reason_of(error)}; {hint}"
        ) from None
    return [Listener(transport, tls) for transport in transports]


async def _open_on_one_port(
    host: str | None, port: int, reuse_port: bool
) -> list[trio.SocketListener]:
    """Where port 0 gave the addresses of ``host`` different ports, take the first for all."""
    for _ in range(_TRIES):
        listeners = await _open(host, port, reuse_port)
        ports = [listener.socket.getsockname()[1] for listener in listeners]
        if len(set(ports)) == 1:
            return listeners
        for listener in listeners:
            listener.socket.close()
        with suppress(OSError):  # taken by somebody else at another of the addresses
            return await _open(host, ports[0], reuse_port)
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


async def _open(host: str | None, port: int, reuse_port: bool) -> list[trio.SocketListener]:
    if not reuse_port:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    sockets: list[stdlib_socket.socket] = []
    try:
        for family, place in await _resolve(host, port):
            if host is None and family == stdlib_socket.AF_INET6 and not stdlib_socket.has_ipv6:
                continue
            sockets.append(
                stdlib_socket.create_server(place, family=family, backlog=_BACKLOG, reuse_port=True)
            )
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return [trio.SocketListener(trio.socket.from_stdlib_socket(socket)) for socket in sockets]


async def _resolve(host: str | None, port: int) -> list[tuple[int, tuple[str, int]]]:
    found = await trio.socket.getaddrinfo(
        host, port, type=stdlib_socket.SOCK_STREAM, flags=stdlib_socket.AI_PASSIVE
    )
    return [(family, (str(place[0]), int(place[1]))) for family, _, _, _, place in found]


async def open_unix(path: Path) -> list[Listener]:
    """Listen on a Unix socket; replace the file of a dead server. Raises `ListenError`."""
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
            raise ListenError(f"cannot listen on {path}: {reason_of(error)}") from None
        raise
    return [Listener(trio.SocketListener(socket))]


def adopt(name: str, socket: stdlib_socket.socket, tls: ssl.SSLContext | None) -> Listener:
    """Accept on a socket that the caller opened and keeps owning. Raises `ListenError`."""
    socket.setblocking(False)
    listening = socket.type == stdlib_socket.SOCK_STREAM and socket.getsockopt(
        stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ACCEPTCONN
    )
    if not listening:
        socket.close()
        raise ListenError(
            f"socket {name} is not a listening stream socket: use ListenStream= in its unit"
        )
    if tls is not None and socket.family == stdlib_socket.AF_UNIX:
        socket.close()
        raise ListenError(f"socket {name} is a Unix socket: TLS needs a TCP socket")
    return Listener(trio.SocketListener(trio.socket.from_stdlib_socket(socket)), tls)


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
    """Stop listening. A second call changes nothing."""
    with trio.CancelScope(shield=True):  # nothing here waits for a peer
        await listener.aclose()


@attrs.frozen
class SocketFile:
    """The file of a Unix socket that was opened here. Another server may have replaced it since."""

    path: Path
    inode: int

    @classmethod
    async def of(cls, address: ListenAddress) -> SocketFile:
        """Return the file of a listener that has just been opened."""
        return cls(Path(address.host), (await trio.Path(address.host).stat()).st_ino)

    async def remove(self) -> None:
        """Remove the file if it is still this one. Inodes are reused, so try to connect as well."""
        path = trio.Path(self.path)
        with trio.CancelScope(shield=True), suppress(OSError):
            if (await path.stat()).st_ino == self.inode and await _is_stale(self.path):
                await path.unlink()


def address_of(listener: Listener) -> ListenAddress:
    """Return where a listener listens."""
    socket = listener.transport.socket
    if socket.family == stdlib_socket.AF_UNIX:
        return ListenAddress(str(socket.getsockname()), None)
    host, port = socket.getsockname()[:2]
    return ListenAddress(str(host), int(port), listener.tls is not None)


def remote_of(stream: trio.abc.Stream) -> str:
    """Return the peer of an accepted stream: "host:port", "unix", or "" if unknown."""
    socket = socket_below(stream)
    if socket is None:
        return ""
    if socket.family == stdlib_socket.AF_UNIX:
        return "unix"
    try:
        host, port = socket.getpeername()[:2]
    except OSError:
        return ""
    return str(ListenAddress(host, port))
