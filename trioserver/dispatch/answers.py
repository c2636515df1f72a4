"""What a peer is told when its request is over, and what only the log is told."""

from __future__ import annotations

from typing import Any, Final

import trio

from protocol import Id, Refusal
from protocol.codec import encode
from protocol.messages import Ack, Chunk
from trioserver.connection import Connection
from trioserver.handlers import unwrap
from trioserver.storage import DatabaseUnavailable
from trioserver.telemetry.handling_times import Outcome
from trioserver.tracebacks import traceback_of
from trioserver.websocket.errors import without_departure
from trioserver.websocket.headers import encode_text

_QUOTES_NOTHING: Final = ("Encoding objects of type ", "Only ")
"""How those errors of msgspec begin that name types and no values."""


class UnencodableResult(TypeError):
    """JSON cannot express what a handler has returned or yielded. Its text names types only."""

    safe_to_log = True


def encode_result(message: Ack | Chunk) -> bytes:
    """The message as JSON. Raises `UnencodableResult`."""
    try:
        return encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        text = str(error)
        why = text if text.startswith(_QUOTES_NOTHING) else type(error).__name__
        kind = type(message.data).__qualname__
        # Without the error, which may hold what it could not express.
        raise UnencodableResult(f"JSON cannot express this {kind}: {why}") from None


def acknowledge(connection: Connection, id: Id | None, result: Any) -> None:
    """Answer a request that has one coming. Raises `UnencodableResult`."""
    if id is not None and connection._session.close is None:
        ack = Ack(id=id) if result is None else Ack(id=id, data=result)
        connection._transmit_frame(encode_text(encode_result(ack)))


def refuse_for(connection: Connection, error: Exception, name: str, id: Id | None) -> Outcome:
    """Answer with what ``error`` of the handler ``name`` is to the peer."""
    outcome, refusal = judge(connection, error, name, id)
    connection._refuse(refusal, id)
    return outcome


def judge(
    connection: Connection, error: Exception, name: str, id: Id | None
) -> tuple[Outcome, Refusal]:
    """What the peer is told; what it is not told goes to the log."""
    remains = without_departure(error, connection.id)
    if remains is None:
        return Outcome.CANCELLED, Refusal("disconnected")  # nobody is left to be told
    error = unwrap(remains)
    if isinstance(error, Refusal):
        return Outcome.REFUSED, error
    log = connection.log if id is None else connection.log.bind(request_id=id)
    if isinstance(error, DatabaseUnavailable):
        log.warning(
            "handler_without_database", handler=name, category=error.category, error=str(error)
        )
        return Outcome.FAILED, Refusal("unavailable")
    if isinstance(error, trio.TooSlowError):
        log.warning("handler_too_slow", handler=name)
        return Outcome.TIMEOUT, Refusal("unavailable", "This took too long; try again later.")
    log.error("handler_failed", handler=name, traceback=traceback_of(error))
    return Outcome.FAILED, Refusal("internal_error")
