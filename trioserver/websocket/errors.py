"""What stops a start, in a sentence for the operator; and what is sent to who has left."""

from __future__ import annotations

import trio


class ListenError(Exception):
    """An address or a certificate cannot be had; the text says which, and what to do."""


def reason_of(error: Exception) -> str:
    """What is wrong, in words; those of getaddrinfo and of Python itself are in the text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.strerror or type(error).__name__
    return str(error)


class ConnectionEnded(trio.ClosedResourceError):
    """The connection has ended, by its client or by the server, so nothing can be sent to it.

    ``connection_id`` is its id. A client may leave at any moment: code that runs for this very
    connection can let the exception pass, nothing is logged then.
    """

    def __init__(self, connection_id: str) -> None:
        super().__init__("the connection has ended")
        self.connection_id = connection_id


def without_departure(error: Exception, connection_id: str) -> Exception | None:
    """What remains of an error without each `ConnectionEnded` of this connection.

    None if nothing remains: then the client has left, and nothing else has happened.
    """

    def is_departure(each: BaseException) -> bool:
        return isinstance(each, ConnectionEnded) and each.connection_id == connection_id

    if isinstance(error, ExceptionGroup):
        return error.split(is_departure)[1]
    return None if is_departure(error) else error
