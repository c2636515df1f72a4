"""Opening the listeners that the configuration names, and closing them."""

from __future__ import annotations

from collections.abc import Iterable

from trioserver.config import ListenConfig
from trioserver.websocket.listeners import (
    Address,
    Listener,
    SocketFile,
    address_of,
    close,
    open_tcp,
    open_unix,
    tls_context,
)


class Listening:
    """The open listeners of a server, and where they are.

    ``proxied`` are those of them whose connections begin with a header of the PROXY protocol.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.proxied: list[Listener] = []
        self._socket_files: list[SocketFile] = []

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where they can be reached; for as long as they are open."""
        return tuple(map(address_of, self.listeners))

    async def open(self, places: Iterable[ListenConfig]) -> None:
        """Open all. Raises `CannotListen`, and `ValueError` for a bad certificate."""
        for where in places:
            opened = await _open(where)
            self.listeners += opened
            if where.proxy_protocol:
                self.proxied += opened
        unix = [address for address in self.addresses if address.port is None]
        self._socket_files = [await SocketFile.of(address) for address in unix]

    async def close(self) -> None:
        """Accept nothing more. A second time changes nothing."""
        for listener in self.listeners:
            await close(listener)

    async def remove_files(self) -> None:
        """Remove the files of Unix sockets that are still ours."""
        for file in self._socket_files:
            await file.remove()


async def _open(where: ListenConfig) -> list[Listener]:
    if where.unix_path is not None:
        return await open_unix(where.unix_path)
    tls = None
    if where.certificate is not None and where.key is not None:
        tls = tls_context(where.certificate, where.key)
    return await open_tcp(where.host, where.port, tls)
