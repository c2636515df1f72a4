"""The listeners of a server: opening them, replacing their certificates, closing them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import structlog

from trioserver.config import Config, ListenConfig
from trioserver.server.operations.systemd import PassedSocket, collect_sockets
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
from trioserver.websocket.tls import FileVersions, TLSFiles, file_versions, load

ALL_SOCKETS: Final = "*"

TLS_FILES: Final = ("certificate", "key", "client_ca", "client_certificates")
"""Options of a listener that may change while it is open."""

_log: Final = structlog.get_logger("trioserver")


@attrs.define
class _ConfiguredListener:
    """One listener of the configuration: its sockets, and its TLS files as last read."""

    options: ListenConfig
    files: TLSFiles | None
    versions: FileVersions
    sockets: list[Listener]

    def use(self, files: TLSFiles, versions: FileVersions, context: ssl.SSLContext) -> None:
        self.files, self.versions = files, versions
        for listener in self.sockets:
            listener.tls = context


@attrs.frozen
class LoadedCertificates:
    """TLS contexts that are loaded and not in use yet; one for each listener with TLS."""

    _loaded: Sequence[tuple[_ConfiguredListener, TLSFiles, FileVersions, ssl.SSLContext]]

    def use(self) -> None:
        """Use them from the next TLS handshake on."""
        for configured, files, versions, context in self._loaded:
            configured.use(files, versions, context)


class ListenerManager:
    """The open listeners of a server, and their addresses.

    A listener of the built-in routes stays open until the server has drained, so that ``/readyz``
    can tell that it is draining. ``addresses`` and ``builtin_addresses`` are empty until `open`
    has returned.
    """

    def __init__(self) -> None:
        self.addresses: tuple[ListenAddress, ...] = ()
        self.builtin_addresses: tuple[ListenAddress, ...] = ()
        self._main: list[_ConfiguredListener] = []
        self._builtin: list[_ConfiguredListener] = []
        self._socket_files: list[SocketFile] = []

    @property
    def listeners(self) -> list[Listener]:
        """The listeners for WebSockets."""
        return _sockets_of(self._main)

    @property
    def builtin_listeners(self) -> list[Listener]:
        """The listeners for the built-in routes only."""
        return _sockets_of(self._builtin)

    @property
    def proxied(self) -> list[Listener]:
        """The listeners whose connections begin with a PROXY header."""
        return _sockets_of(each for each in self._all if each.options.proxy_protocol)

    @property
    def _all(self) -> list[_ConfiguredListener]:
        return [*self._main, *self._builtin]

    async def open(self, config: Config) -> None:
        """Open all listeners. Raises `ListenError`, also if a certificate cannot be used."""
        with passed_sockets() as passed:
            for options in config.listeners:
                await self._open(options, self._main, passed)
            for options in config.http.listeners:
                await self._open(options, self._builtin, passed)
        self.addresses = tuple(map(address_of, self.listeners))
        self.builtin_addresses = tuple(map(address_of, self.builtin_listeners))

    async def _open(
        self,
        options: ListenConfig,
        group: list[_ConfiguredListener],
        passed: list[PassedSocket],
    ) -> None:
        files = _files_of(options)
        versions = () if files is None else await file_versions(files)
        context = None if files is None else await load(files)
        configured = _ConfiguredListener(options, files, versions, [])
        group.append(configured)  # before it opens: what is open is closed, whatever happens
        if options.systemd_socket is not None:
            configured.sockets += _adopt_named(options.systemd_socket, passed, context)
        elif options.unix_path is not None:
            configured.sockets += await open_unix(options.unix_path)
            for listener in configured.sockets:
                self._socket_files.append(await SocketFile.of(address_of(listener)))
        else:
            configured.sockets += await open_tcp(
                options.host, options.port, context, reuse_port=options.reuse_port
            )

    async def load_certificates(self, config: Config) -> LoadedCertificates:
        """Load the certificates that a new configuration names for the open listeners.

        Listeners that differ in more than their TLS files are skipped. Raises `ListenError` if a
        certificate cannot be used. What is in use stays in use until `LoadedCertificates.use`.
        """
        loaded = []
        pairs = [
            *zip(self._main, config.listeners, strict=False),
            *zip(self._builtin, config.http.listeners, strict=False),
        ]
        for configured, options in pairs:
            files = _files_of(options)
            if configured.files is None or files is None:
                continue
            if differ_in_tls_files_only(configured.options, options):
                versions = await file_versions(files)
                loaded.append((configured, files, versions, await load(files)))
        return LoadedCertificates(loaded)

    async def reload_changed_certificates(self) -> None:
        """Use certificates whose files have changed.

        If one cannot be used, the old one stays in use, and the reason is logged once.
        """
        for configured in self._all:
            if configured.files is None:
                continue
            files, versions = configured.files, await file_versions(configured.files)
            if versions == configured.versions:
                continue
            configured.versions = versions  # also of a bad file, which is logged once
            try:
                context = await load(files)
            except ListenError as error:
                _log.error("certificate_reload_failed", error=str(error))
                continue
            if configured.files == files:
                configured.use(files, versions, context)
                _log.info("certificate_reloaded", certificate=str(files.certificate))

    async def close(self) -> None:
        """Stop accepting WebSockets. Calling it again does nothing."""
        for listener in self.listeners:
            await close(listener)

    async def close_all(self) -> None:
        """Stop accepting, and remove the files of Unix sockets, if they are still this server's."""
        await self.close()
        for listener in self.builtin_listeners:
            await close(listener)
        for file in self._socket_files:
            await file.remove()


def _sockets_of(configured: Iterable[_ConfiguredListener]) -> list[Listener]:
    return [listener for each in configured for listener in each.sockets]


@contextmanager
def passed_sockets() -> Iterator[list[PassedSocket]]:
    """Yield the sockets that systemd has opened, and close those that are left at the end."""
    passed = collect_sockets()
    try:
        yield passed
    finally:
        for unused in passed:
            _log.warning("systemd_socket_unused", name=unused.name)
            unused.socket.close()


def _adopt_named(
    name: str, passed: list[PassedSocket], tls: ssl.SSLContext | None
) -> list[Listener]:
    """Take the sockets with this name out of ``passed``."""
    mine = [each for each in passed if name in (ALL_SOCKETS, each.name)]
    if not mine:
        there = ", ".join(each.name for each in passed) or "none"
        raise ListenError(
            f"systemd has passed no socket named {name} (systemd_socket); sockets passed: {there}. "
            "Start the service by its .socket unit, with FileDescriptorName= set to that name"
        )
    for each in mine:
        passed.remove(each)
    return [adopt(each.name, each.socket, tls) for each in mine]


def _files_of(options: ListenConfig) -> TLSFiles | None:
    if options.certificate is None or options.key is None:
        return None
    return TLSFiles(
        certificate=options.certificate,
        key=options.key,
        client_ca=options.client_ca,
        client_required=options.client_certificates == "required",
    )


def differ_in_tls_files_only(one: ListenConfig, other: ListenConfig) -> bool:
    """Whether two listeners are equal but for their TLS files."""
    if (one.certificate is None) != (other.certificate is None):
        return False
    mine, others = attrs.asdict(one), attrs.asdict(other)
    return all(mine[name] == others[name] for name in mine if name not in TLS_FILES)
