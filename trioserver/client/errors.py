"""What a client raises, named by what happened; each says what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol.errors import Retry
from protocol.messages import Error
from trioserver.client.close_reason import CloseReason


class ClientError(Exception):
    """The base of all of them."""


class ConnectionLost(ClientError):
    """The connection ended, or could not be had; ``reason`` says how.

    A request that raises this may or may not have been done: it is for the caller to decide
    whether to ask again.
    """

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Refused(ClientError):
    """`connect` was refused by the server, and trying again would not help.

    ``retry`` is "never" as a rule, "refresh_token" where there is no callable to ask for another
    token, "backoff" where `connect` was not to try again. ``retry_after`` is in seconds.
    """

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.code = reason.code
        self.message = reason.message
        self.retry: Retry = reason.retry
        self.retry_after = reason.retry_after
        self.close_code = reason.close_code


class ConnectTimeout(ClientError, trio.TooSlowError):
    """`connect` was not READY in time; ``reason`` is how the last attempt ended, if one did."""

    def __init__(self, seconds: float, reason: CloseReason | None) -> None:
        super().__init__(f"not ready within {seconds:g} s; last: {reason or 'still connecting'}")
        self.reason = reason


class RequestRefused(ClientError):
    """The server answered a request with an error; the connection lives on.

    ``retry_after`` is in seconds, None where the server did not say.
    """

    def __init__(
        self, code: str, message: str, retry: Retry, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry: Retry = retry
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: Error) -> RequestRefused:
        """From the server's message."""
        after = error.retry_after_ms
        return cls(error.code, error.message, error.advice, None if after is None else after / 1000)


class RequestTimeout(ClientError, trio.TooSlowError):
    """No answer in time. The request may or may not have been done."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what}: no answer within {seconds:g} s")


class Overflow(ClientError):
    """Whoever iterates has been too slow: ``missed`` items are gone, here in the order.

    Iterating can go on with what came after them.
    """

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} were not taken in time and are gone")
        self.missed = missed


def error_of(reason: CloseReason) -> Callable[[], ConnectionLost] | None:
    """What an iterator raises, anew each time, when the client has ended so; None where nothing."""
    return None if reason.is_normal else lambda: ConnectionLost(reason)
