"""Opening the listeners that the configuration names, keeping their keys fresh, closing them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import structlog

from trioserver.config import Config, ListenConfig
from trioserver.server.operations.systemd import PassedSocket, take_sockets
from trioserver.websocket.accepting import Listener
from trioserver.websocket.errors import ListenError
from trioserver.websocket.listeners import (
    ListenAddress,
    SocketFile,
    address_of,
    adopt,
    close,
    open_tcp,
    open_unix,
)
from trioserver.websocket.tls import Stamp, TLSFiles, load, stamp_of

ALL_SOCKETS: Final = "*"

TLS_FILES: Final = ("certificate", "key", "client_ca", "client_certificates")
"""Options of a listener that can change while it listens."""

_log: Final = structlog.get_logger("trioserver")


@attrs.define
class _Place:
    """A listener of the configuration: the sockets it has become, and the files as last read."""

    where: ListenConfig
    files: TLSFiles | None
    stamp: Stamp
    listeners: list[Listener]

    def use(self, files: TLSFiles, stamp: Stamp, context: ssl.SSLContext) -> None:
        self.files, self.stamp = files, stamp
        for listener in self.listeners:
            listener.tls = context


@attrs.frozen
class LoadedCertificates:
    """Contexts that have been loaded and are not in use yet; one for each place with TLS."""

    _loaded: Sequence[tuple[_Place, TLSFiles, Stamp, ssl.SSLContext]]

    def use(self) -> None:
        """From the next handshake on."""
        for place, files, stamp, context in self._loaded:
            place.use(files, stamp, context)


class ListenerManager:
    """The open listeners of a server, and where they are.

    Those of the built-in routes, where they have one of their own, are kept apart: they stay open
    to the very end, so that whoever asks ``/readyz`` hears that the server is draining.
    ``addresses`` and ``builtin_addresses`` are known once they are open.
    """

    def __init__(self) -> None:
        self.addresses: tuple[ListenAddress, ...] = ()
        self.builtin_addresses: tuple[ListenAddress, ...] = ()
        self._places: list[_Place] = []
        self._builtin_places: list[_Place] = []
        self._socket_files: list[SocketFile] = []

    @property
    def listeners(self) -> list[Listener]:
        """All that are open for WebSockets."""
        return _listeners_of(self._places)

    @property
    def builtin_listeners(self) -> list[Listener]:
        """All that are open for the built-in routes alone."""
        return _listeners_of(self._builtin_places)

    @property
    def proxied(self) -> list[Listener]:
        """All whose connections begin with a header of the PROXY protocol."""
        places = [*self._places, *self._builtin_places]
        return _listeners_of(place for place in places if place.where.proxy_protocol)

    async def open(self, config: Config) -> None:
        """Open all. Raises `ListenError`, also for a bad certificate."""
        with passed_sockets() as passed:
            for where in config.listeners:
                await self._open(where, self._places, passed)
            for where in config.http.listeners:
                await self._open(where, self._builtin_places, passed)
        self.addresses = tuple(map(address_of, self.listeners))
        self.builtin_addresses = tuple(map(address_of, self.builtin_listeners))

    async def _open(
        self, where: ListenConfig, places: list[_Place], passed: list[PassedSocket]
    ) -> None:
        files = _files_of(where)
        stamp = () if files is None else await stamp_of(files)
        context = None if files is None else await load(files)
        place = _Place(where, files, stamp, [])
        places.append(place)
        if where.systemd_socket is not None:
            place.listeners += _take(where.systemd_socket, passed, context)
        elif where.unix_path is not None:
            place.listeners += await open_unix(where.unix_path)
            for listener in place.listeners:
                self._socket_files.append(await SocketFile.of(address_of(listener)))
        else:
            place.listeners += await open_tcp(
                where.host, where.port, context, reuse_port=where.reuse_port
            )

    async def load_certificates(self, config: Config) -> LoadedCertificates:
        """Read all files of these listeners anew, which may be others than before.

        Raises `ListenError` for files that do not do; what is in use stays in any case. Listeners
        that are not the same but for their files are passed over.
        """
        loaded = []
        pairs = [
            *zip(self._places, config.listeners, strict=False),
            *zip(self._builtin_places, config.http.listeners, strict=False),
        ]
        for place, where in pairs:
            files = _files_of(where)
            if place.files is not None and files is not None and same_place(place.where, where):
                stamp = await stamp_of(files)
                loaded.append((place, files, stamp, await load(files)))
        return LoadedCertificates(loaded)

    async def reload_changed_certificates(self) -> None:
        """Use what has changed in the files; what does not do is refused with a line in the log."""
        for place in [*self._places, *self._builtin_places]:
            if place.files is None:
                continue
            files, stamp = place.files, await stamp_of(place.files)
            if stamp == place.stamp:
                continue
            place.stamp = stamp  # a bad file is complained of once
            try:
                context = await load(files)
            except ListenError as error:
                _log.error("certificate_reload_failed", error=str(error))
                continue
            if place.files == files:
                place.use(files, stamp, context)
                _log.info("certificate_reloaded", certificate=str(files.certificate))

    async def close(self) -> None:
        """Accept no WebSockets any more. A second time changes nothing."""
        for listener in self.listeners:
            await close(listener)

    async def close_all(self) -> None:
        """Accept nothing any more, and remove the files of Unix sockets that are still ours."""
        await self.close()
        for listener in self.builtin_listeners:
            await close(listener)
        for file in self._socket_files:
            await file.remove()


def _listeners_of(places: Iterable[_Place]) -> list[Listener]:
    return [listener for place in places for listener in place.listeners]


@contextmanager
def passed_sockets() -> Iterator[list[PassedSocket]]:
    """The sockets that systemd has opened; those that are left at the end are closed."""
    passed = take_sockets()
    try:
        yield passed
    finally:
        for unused in passed:
            _log.warning("systemd_socket_unused", name=unused.name)
            unused.socket.close()


def _take(name: str, passed: list[PassedSocket], tls: ssl.SSLContext | None) -> list[Listener]:
    """Take the sockets of this name out of those that were passed."""
    mine = [each for each in passed if name in (ALL_SOCKETS, each.name)]
    if not mine:
        there = ", ".join(each.name for each in passed) or "none at all"
        raise ListenError(
            f"systemd has passed no socket of the name {name} (systemd_socket), but {there}: is "
            "the service started by its .socket unit, which says FileDescriptorName=?"
        )
    for each in mine:
        passed.remove(each)
    return [adopt(each.name, each.socket, tls) for each in mine]


def _files_of(where: ListenConfig) -> TLSFiles | None:
    if where.certificate is None or where.key is None:
        return None
    return TLSFiles(
        certificate=where.certificate,
        key=where.key,
        client_ca=where.client_ca,
        client_required=where.client_certificates == "required",
    )


def same_place(one: ListenConfig, other: ListenConfig) -> bool:
    """Whether two listeners are one and the same but for the files of their TLS."""
    if (one.certificate is None) != (other.certificate is None):
        return False
    mine, others = attrs.asdict(one), attrs.asdict(other)
    return all(mine[name] == others[name] for name in mine if name not in TLS_FILES)
