"""TLS: the files with the certificate and the trusted CAs, and the context made of them.

A context is never changed: other files make another one, which takes its place.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trioserver.config.private_files import warn_if_open
from trioserver.websocket.errors import ListenError, reason_of
from trioserver.websocket.request import ClientCertificate
from trioserver.websocket.tls_stream import is_secure

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!aDSS"
"""For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else."""

FileVersions = tuple[tuple[int, int, int], ...]


@attrs.frozen(kw_only=True)
class TLSFiles:
    """The files of certificate and key; with ``client_ca``, clients are asked for certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    client_required: bool = False

    @property
    def all(self) -> tuple[Path, ...]:
        """All files that are set."""
        return tuple(file for file in (self.certificate, self.key, self.client_ca) if file)


async def file_versions(files: TLSFiles) -> FileVersions:
    """Return a value that changes when a file does; also for a file that cannot be read."""
    return await trio.to_thread.run_sync(_file_versions, files, abandon_on_cancel=True)


def _file_versions(files: TLSFiles) -> FileVersions:
    return tuple(map(_file_version, files.all))


def _file_version(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_ino, status.st_size)


async def load(files: TLSFiles) -> ssl.SSLContext:
    """Read the files and make a context. Raises `ListenError` if they cannot be used."""
    return await trio.to_thread.run_sync(tls_context, files, abandon_on_cancel=True)


def tls_context(files: TLSFiles) -> ssl.SSLContext:
    """TLS 1.2 and up, no renegotiation, no compression. Raises `ListenError` as `load`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    warn_if_open(files.key)
    try:
        # The empty password: an encrypted key is an error, not a question on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except OSError as error:
        raise ListenError(
            f"cannot use the certificate {files.certificate} with the key {files.key}: "
            f"{reason_of(error)}"
        ) from None
    if files.client_ca is not None:
        _ask_for_certificates(context, files.client_ca, required=files.client_required)
    return context


def _ask_for_certificates(context: ssl.SSLContext, ca: Path, *, required: bool) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise ListenError(f"cannot use the client_ca {ca}: {reason_of(error)}") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise ListenError(f"cannot use the client_ca {ca}: no certificate in it is a CA's")
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


def client_certificate_of(stream: trio.abc.Stream) -> ClientCertificate | None:
    """Return the peer's verified certificate, None if it has sent none.

    To be called after the TLS handshake. Who issued it is in the listener's ``client_ca``.
    """
    if not is_secure(stream):
        return None
    try:
        der = stream.getpeercert(binary_form=True)
        fields: dict[str, Any] = stream.getpeercert() or {}
    except trio.NeedHandshakeError:
        return None
    # A certificate that was not verified has no fields.
    return ClientCertificate.of(der, fields) if der and fields else None
