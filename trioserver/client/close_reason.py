"""`CloseReason`: why a connection ended, or could not be opened, whatever reported it.

Sources, in order of precedence: a fatal `error` message, the Close frame, the HTTP status of the
opening handshake, a network error. The advice (``retry``) comes from the table in
`protocol.errors`.
"""

from __future__ import annotations

from typing import Final

import attrs

from protocol.errors import NORMAL_CLOSURE, Retry, retry_of_close, row_of_close
from protocol.messages import Error

_NO_CLOSE_CODE: Final = (1005, 1006)
"""RFC 6455, section 7.4.1: a Close frame without a code, and no Close frame at all."""

_RETRYABLE_STATUSES: Final = (408, 429)
"""HTTP statuses below 500 after which the same request may succeed later."""

_PROTOCOL_ERROR: Final = 1002


@attrs.frozen
class CloseReason:
    """Why a connection ended, or could not be opened.

    ``code`` is a code of `protocol.ERRORS`, one of the application's own, or one of this client's:
    ``normal``, ``closed`` (by this program), ``connection_lost``, ``server_silent``,
    ``connect_timeout``, ``slow_consumer``, ``certificate_invalid`` (the server's certificate),
    ``certificate_refused`` (this client's certificate, by the server), ``http_404`` and similar.

    ``message`` is a sentence for people. ``retry`` says whether to connect again, ``retry_after``
    after how many seconds at least. ``close_code`` is the WebSocket close code, None without a
    Close frame. ``by_server`` is False if this client or the network ended the connection without
    a message, a Close frame or an HTTP status from the server.
    """

    code: str
    message: str
    retry: Retry
    retry_after: float | None = None
    close_code: int | None = None
    by_server: bool = True

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def is_normal(self) -> bool:
        """Whether one of the two sides closed the connection normally."""
        return self.close_code == NORMAL_CLOSURE

    @classmethod
    def local(
        cls, message: str, code: str = "connection_lost", retry: Retry = "backoff"
    ) -> CloseReason:
        """A reason that this client or the network gives, not the server."""
        return cls(code, message, retry, by_server=False)

    @classmethod
    def protocol_error(cls, message: str) -> CloseReason:
        """The server violated the protocol. Connecting again would not help."""
        return cls("protocol_error", message, "never", close_code=_PROTOCOL_ERROR)

    @classmethod
    def from_error(cls, error: Error, close_code: int | None) -> CloseReason:
        """From a fatal `error` message, and the Close frame that followed it, if one did."""
        after = error.retry_after_ms
        seconds = None if after is None else after / 1000
        return cls(error.code, error.message, error.advice, seconds, close_code)

    @classmethod
    def from_close(cls, close_code: int, text: str | None) -> CloseReason:
        """From a Close frame without an `error` message before it.

        The text of the frame is the error code, if the server followed the protocol.
        """
        if close_code == NORMAL_CLOSURE:
            return NORMAL
        row = row_of_close(close_code, text or "")
        if row is not None:
            return cls(row.name, row.message, row.retry, close_code=close_code)
        if close_code in _NO_CLOSE_CODE:
            return cls.local("The connection ended without a close code.")
        code, retry = text or f"close_{close_code}", retry_of_close(close_code)
        return cls(code, f"Closed with {close_code}.", retry, close_code=close_code)

    @classmethod
    def from_http(cls, status: int, retry_after: float | None) -> CloseReason:
        """From an HTTP response to the opening handshake that is not 101."""
        retryable = status >= 500 or status in _RETRYABLE_STATUSES
        retry: Retry = "backoff" if retryable else "never"
        return cls(f"http_{status}", f"The server answered {status}.", retry, retry_after)


CLOSED: Final = CloseReason("closed", "Closed by this program.", "never", None, NORMAL_CLOSURE)
NORMAL: Final = CloseReason("normal", "The server has finished.", "never", None, NORMAL_CLOSURE)
