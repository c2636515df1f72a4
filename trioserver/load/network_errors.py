"""Turns network errors of simulated clients into a `CloseReason` with a code to count by."""

from __future__ import annotations

import errno
import ssl
from typing import Final

from trioserver.client.close_reason import CloseReason
from trioserver.client.network import reason_from_alert

_CODES: Final = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "connect_timeout",
    errno.EADDRNOTAVAIL: "no_free_port",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}
_LOCAL: Final = ("no_free_port", "too_many_open_files")
"""Errors of this machine. Another attempt would fail as well."""


def reason_from_error(error: OSError) -> CloseReason:
    """Why the network or TLS ended a connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = "The server's certificate is not trusted."
        return CloseReason.local(text, "certificate_invalid", "never")
    if isinstance(error, ssl.SSLError):
        return reason_from_alert(error) or CloseReason.local("TLS failed.", "tls_failed")
    number = error.errno or 0
    code = _CODES.get(number) or errno.errorcode.get(number, "os_error").lower()
    return CloseReason.local("The network failed.", code, "never" if code in _LOCAL else "backoff")
