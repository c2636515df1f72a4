"""Why a connection ended, or could not be had: one value, whatever it was that said so.

The error message comes first, then the close code and its reason, then the status of HTTP, then
what the network did. What to do about it stands in the table of `protocol.errors`.
"""

from __future__ import annotations

from typing import Final

import attrs

from protocol.errors import NORMAL_CLOSURE, Retry, retry_of_close, row_of_close
from protocol.messages import Error

_NO_CODE: Final = (1005, 1006)
"""RFC 6455, section 7.4.1: stand for a Close frame without a code, and for none at all."""

_TRY_AGAIN: Final = (408, 429)
"""Statuses below 500 that ask for patience, not for another request."""


@attrs.frozen
class CloseReason:
    """``code``: of `protocol.ERRORS`, of the application's own, or one of this client's:
    ``normal``, ``closed`` (by this program), ``connection_lost``, ``server_silent``,
    ``certificate_invalid`` (the server's), ``certificate_refused`` (this client's, by the server),
    ``http_404`` and the like.

    ``message`` is for people. ``retry`` says whether to come back, ``retry_after`` after how many
    seconds at least. ``close_code`` is the WebSocket's, None where no Close frame came.
    ``refused``: the server said so, not the network.
    """

    code: str
    message: str
    retry: Retry
    retry_after: float | None = None
    close_code: int | None = None
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def is_normal(self) -> bool:
        """Whether nothing went wrong: one of the two sides had finished."""
        return self.close_code == NORMAL_CLOSURE


CLOSED: Final = CloseReason("closed", "Closed by this program.", "never", None, NORMAL_CLOSURE)
NORMAL: Final = CloseReason("normal", "The server has finished.", "never", None, NORMAL_CLOSURE)


def lost(message: str, code: str = "connection_lost", retry: Retry = "backoff") -> CloseReason:
    """Nobody said why."""
    return CloseReason(code, message, retry, refused=False)


def protocol_error(message: str) -> CloseReason:
    """The server does not speak this protocol; coming back would not teach it."""
    return CloseReason("protocol_error", message, "never", close_code=1002)


def of_error(error: Error, close_code: int | None) -> CloseReason:
    """The server said it in so many words."""
    after = error.retry_after_ms
    seconds = None if after is None else after / 1000
    return CloseReason(error.code, error.message, error.advice, seconds, close_code)


def of_close(close_code: int, text: str | None) -> CloseReason:
    """A Close frame without an error message before it: its reason is the code of an error."""
    if close_code == NORMAL_CLOSURE:
        return NORMAL
    row = row_of_close(close_code, text or "")
    if row is not None:
        return CloseReason(row.name, row.message, row.retry, close_code=close_code)
    if close_code in _NO_CODE:
        return lost("The connection ended without a word.")
    code, retry = text or f"close_{close_code}", retry_of_close(close_code)
    return CloseReason(code, f"Closed with {close_code}.", retry, close_code=close_code)


def of_http(status: int, retry_after: float | None) -> CloseReason:
    """The server answered the opening handshake with something else than a WebSocket."""
    retry: Retry = "backoff" if status >= 500 or status in _TRY_AGAIN else "never"
    return CloseReason(f"http_{status}", f"The server answered {status}.", retry, retry_after)
