"""The exceptions that the client raises."""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol.errors import Retry
from protocol.messages import Error
from trioserver.client.close_reason import CloseReason


class ClientError(Exception):
    """Base class of the client's exceptions."""


class ConnectionLostError(ClientError):
    """The connection ended, or could not be opened; ``reason`` says why.

    A request that raises this may or may not have been executed. The caller decides whether to
    send it again.
    """

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class ConnectRejectedError(ClientError):
    """The server rejected `connect`, and another attempt would not help.

    ``retry`` is usually "never". It is "refresh_token" if ``token`` is no callable that could
    return another token, and "backoff" if ``reconnect`` is False. ``retry_after`` is in seconds.
    """

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.code = reason.code
        self.message = reason.message
        self.retry: Retry = reason.retry
        self.retry_after = reason.retry_after
        self.close_code = reason.close_code


class ConnectTimeoutError(ClientError, trio.TooSlowError):
    """`connect` was not READY in time; ``reason`` says how the last attempt ended, if one did."""

    def __init__(self, seconds: float, reason: CloseReason | None) -> None:
        last = "the first attempt is still under way" if reason is None else f"last error: {reason}"
        super().__init__(f"not ready within {seconds:g} s; {last}")
        self.reason = reason


class RequestRejectedError(ClientError):
    """The server answered a request with an error. The connection stays open.

    ``retry_after`` is in seconds, None if the server did not say.
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
    def from_error(cls, error: Error) -> RequestRejectedError:
        """From the server's `error` message."""
        after = error.retry_after_ms
        return cls(error.code, error.message, error.advice, None if after is None else after / 1000)


class RequestTimeoutError(ClientError, trio.TooSlowError):
    """No answer arrived in time. The request may or may not have been executed."""

    def __init__(self, type: str, seconds: float) -> None:
        super().__init__(f"{type}: no answer within {seconds:g} s")


class BufferOverflowError(ClientError):
    """The consumer was too slow: ``missed`` items were dropped at this point of the sequence.

    Iteration can continue with the items that followed.
    """

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} items were dropped: the consumer was too slow")
        self.missed = missed


def iteration_error(reason: CloseReason) -> Callable[[], ConnectionLostError] | None:
    """Make the exception that an iterator raises after the client has ended; None for none.

    A new one each time, because each is raised with a traceback of its own.
    """
    return None if reason.is_normal else lambda: ConnectionLostError(reason)
