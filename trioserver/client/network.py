"""Opens TCP and TLS streams, and turns network errors into a `CloseReason`."""

from __future__ import annotations

import ssl
from typing import Final

import trio

from trioserver.client.close_reason import CloseReason
from trioserver.client.send_tolerant import SendTolerantStream
from trioserver.client.url import WebSocketURL

_CERTIFICATE_ALERTS: Final = {
    "ACCESS_DENIED",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "UNSUPPORTED_CERTIFICATE",
}
"""TLS alerts about the client's certificate, or its absence, by their names in OpenSSL."""


async def open_stream(url: WebSocketURL, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Connect with TCP, and with TLS for ``wss``. It has no deadline.

    ``ssl_context``: None uses the certificate authorities of the operating system. Raises `OSError`
    or `trio.BrokenResourceError`.
    """
    tcp = await trio.open_tcp_stream(url.host, url.port)
    if not url.secure:
        return tcp
    context = ssl_context or ssl.create_default_context()
    tls = trio.SSLStream(
        SendTolerantStream(tcp), context, server_hostname=url.host, https_compatible=True
    )
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tls)
        raise
    return tls


def reason_from_alert(error: ssl.SSLError) -> CloseReason | None:
    """What the server's TLS alert says (RFC 8446, section 6.2); None if the error is not an alert.

    With TLS 1.3, the alert about this client's certificate arrives after the client's handshake.
    """
    _, separator, name = (error.reason or "").partition("_ALERT_")
    if not separator:
        return None
    alert = name.replace("_", " ").lower()
    if name in _CERTIFICATE_ALERTS:
        text = f"The server refuses this client's certificate: {alert}."
        return CloseReason.local(text, "certificate_refused", "never")
    return CloseReason.local(f"The server refuses TLS: {alert}.")


def reason_from_error(error: OSError | trio.BrokenResourceError) -> CloseReason:
    """Why connecting failed. An invalid certificate, on either side, is not worth another attempt.

    Only the operating system's text is used. Text of other exceptions may contain anything.
    """
    cause: BaseException = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        text = f"The server's certificate is not valid: {cause.verify_message}."
        return CloseReason.local(text, "certificate_invalid", "never")
    if isinstance(cause, ssl.SSLError) and (alert := reason_from_alert(cause)) is not None:
        return alert
    while isinstance(cause, BaseExceptionGroup):  # one exception for each address that was tried
        cause = cause.exceptions[0]
    text = getattr(cause, "strerror", None) or type(cause).__name__
    return CloseReason.local(f"Cannot connect: {text}.")
