"""Errors of listeners, and of sending to a connection that has ended."""

from __future__ import annotations

import trio


class ListenError(Exception):
    """An address or a certificate cannot be used; the text says which, why, and what to do."""


def reason_of(error: Exception) -> str:
    """Return what is wrong, in words. Errors of getaddrinfo and of Python have it in their text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.strerror or type(error).__name__
    return str(error)


class ConnectionEnded(trio.ClosedResourceError):
    """The connection has ended, by its client or by the server, so nothing can be sent to it.

    ``connection_id`` is its id. A client may disconnect at any moment. Code that runs for this
    connection may let the exception propagate; nothing is logged then.
    """

    def __init__(self, connection_id: str) -> None:
        super().__init__("the connection has ended")
        self.connection_id = connection_id


def without_departure(error: Exception, connection_id: str) -> Exception | None:
    """Return the error without each `ConnectionEnded` of this connection.

    Return None if nothing remains: then the client has disconnected, and nothing else happened.
    """

    def is_departure(each: BaseException) -> bool:
        return isinstance(each, ConnectionEnded) and each.connection_id == connection_id

    if isinstance(error, ExceptionGroup):
        return error.split(is_departure)[1]
    return None if is_departure(error) else error
