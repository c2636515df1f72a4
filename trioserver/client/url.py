"""Where a URL points to, and how a stream to there is opened."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import quote, urlsplit

import attrs
import trio

from trioserver.client.close_reason import CloseReason, lost
from trioserver.client.send_tolerant import LastWordsStream
from trioserver.logs.paths import masked_path

_ABOUT_CERTIFICATES: Final = {
    "ACCESS_DENIED",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "UNSUPPORTED_CERTIFICATE",
}
"""Alerts about what a client has shown, or has not, as OpenSSL names them."""

_PORTS: Final = {"ws": 80, "wss": 443}


@attrs.frozen(kw_only=True)
class Address:
    """A ``ws://`` or ``wss://`` URL, taken apart. The query may hold a secret, and is not shown."""

    host: str
    port: int
    secure: bool
    path: str = attrs.field(repr=lambda path: repr(masked_path(path)))
    query: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `ValueError` for what is not a WebSocket's URL (RFC 6455, section 3)."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("a WebSocket's URL looks like ws://host:port/path, or wss://...")
        if parts.fragment or parts.username is not None:
            raise ValueError("a WebSocket's URL has no fragment, user or password")
        return cls(
            host=parts.hostname,
            port=parts.port or _PORTS[parts.scheme],
            secure=parts.scheme == "wss",
            path=quote(parts.path, safe="/%:@!$&'()*+,;=~-._") or "/",
            query=parts.query,
        )

    def __str__(self) -> str:
        """For logs and reprs: without the query, and without what may be a token in the path."""
        return f"{self._scheme}://{self.authority}{masked_path(self.path)}"

    @property
    def _scheme(self) -> str:
        return "wss" if self.secure else "ws"

    @property
    def authority(self) -> str:
        """What goes into the Host header; the scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self._scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_token(self, token: str, heartbeat: str | None = None) -> Address:
        """With ``?token=`` in the query, and ``heartbeat=`` where it is not None."""
        pairs = [f"token={quote(token, safe='')}"]
        if heartbeat is not None:
            pairs.append(f"heartbeat={heartbeat}")
        return attrs.evolve(self, query="&".join(filter(None, (self.query, *pairs))))


async def open_stream(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Connect by TCP, and TLS for ``wss``. ``ssl_context``: None trusts what the system trusts.

    Raises `OSError`, `trio.BrokenResourceError`. Has no deadline of its own.
    """
    tcp = await trio.open_tcp_stream(address.host, address.port)
    if not address.secure:
        return tcp
    context = ssl_context or ssl.create_default_context()
    tls = trio.SSLStream(
        LastWordsStream(tcp), context, server_hostname=address.host, https_compatible=True
    )
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return tls


def alert_of(error: ssl.SSLError) -> CloseReason | None:
    """What the server's alert of TLS says (RFC 8446, section 6.2); None where there was none.

    With TLS 1.3 the one about this client's certificate comes when the client's handshake is over.
    """
    _, separator, name = (error.reason or "").partition("_ALERT_")
    if not separator:
        return None
    words = name.replace("_", " ").lower()
    if name in _ABOUT_CERTIFICATES:
        text = f"The server refuses this client's certificate: {words}."
        return lost(text, "certificate_refused", "never")
    return lost(f"The server refuses TLS: {words}.")


def reason_of_error(error: OSError | trio.BrokenResourceError) -> CloseReason:
    """Why there is no connection. A certificate that is wrong stays wrong, on either side.

    Only what the system says is passed on: an exception's own text may hold anything.
    """
    cause: BaseException = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"The server's certificate: {cause.verify_message}."
        return lost(text, "certificate_invalid", "never")
    if isinstance(cause, ssl.SSLError) and (alert := alert_of(cause)) is not None:
        return alert
    while isinstance(cause, BaseExceptionGroup):  # of the addresses that were tried
        cause = cause.exceptions[0]
    text = getattr(cause, "strerror", None) or type(cause).__name__
    return lost(f"Cannot connect: {text}.")
