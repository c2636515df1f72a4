"""The answers to requests: acknowledgements, and the errors for what handlers raise."""

from __future__ import annotations

from typing import Any, Final

import trio

from protocol import Id, Refusal, TooBigToSendError
from protocol.codec import encode
from protocol.messages import Ack, Chunk
from trioserver.app.functions import unwrap
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.lines import may_log
from trioserver.logs.throttle import LogThrottle
from trioserver.logs.tracebacks import traceback_of
from trioserver.storage import DatabaseUnavailableError
from trioserver.telemetry.handling_times import Outcome
from trioserver.websocket.errors import without_departure
from trioserver.websocket.headers import encode_text

_QUOTES_NOTHING: Final = ("Encoding objects of type ", "Only ")
"""The starts of msgspec's error messages that contain types and no values."""

_too_big: Final = LogThrottle(10.0)


class UnencodableResult(TypeError):
    """JSON cannot express what a handler returned or yielded. The message contains types only."""

    safe_to_log = True


def encode_result(message: Ack | Chunk) -> bytes:
    """Encode the message as JSON. Raises `UnencodableResult`."""
    try:
        return encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        text = str(error)
        why = text if text.startswith(_QUOTES_NOTHING) else type(error).__name__
        kind = type(message.data).__qualname__
        # Without its cause, which may contain the value.
        raise UnencodableResult(f"JSON cannot express this {kind}: {why}") from None


def acknowledge(connection: ServerConnection, id: Id | None, result: Any) -> bytes | None:
    """Answer a request with its result. A message without an id gets no answer.

    Returns the frame if the send queue has no room for it yet: then the caller must send it.
    Raises `UnencodableResult`, `TooBigToSendError`.
    """
    if id is not None and connection.protocol.close is None:
        ack = Ack(id=id) if result is None else Ack(id=id, data=result)
        frame = encode_text(encode_result(ack))
        if not connection.transmit_if_room(frame):
            return frame
    return None


def answer_error(
    connection: ServerConnection, error: Exception, name: str, id: Id | None
) -> Outcome:
    """Answer a request with the error for an exception of the handler ``name``."""
    outcome, refusal = refusal_for(connection, error, name, id)
    connection.refuse(refusal, id)
    return outcome


def refusal_for(
    connection: ServerConnection, error: Exception, name: str, id: Id | None
) -> tuple[Outcome, Refusal]:
    """Return the error to answer with. Log what the client is not told."""
    remains = without_departure(error, connection.id)
    if remains is None:
        return Outcome.CANCELLED, Refusal("disconnected")  # nothing can be sent any more
    error = unwrap(remains)
    if isinstance(error, Refusal):
        if isinstance(error, TooBigToSendError):
            _log_too_big(connection, name, error)
        return Outcome.REFUSED, error
    log = connection.log if id is None else connection.log.bind(request_id=id)
    user = connection.facade.user.id
    if isinstance(error, DatabaseUnavailableError):
        if may_log("handler_database_unavailable", user=user):
            log.warning(
                "handler_database_unavailable",
                handler=name,
                category=error.category,
                error=str(error),
            )
        return Outcome.FAILED, Refusal("unavailable")
    if isinstance(error, trio.TooSlowError):
        if may_log("handler_timeout", user=user):
            log.warning("handler_timeout", handler=name)
        return Outcome.TIMEOUT, Refusal("unavailable", "This took too long; try again later.")
    if may_log("handler_failed", user=user, traceback=True):
        log.error("handler_failed", handler=name, traceback=traceback_of(error))
    return Outcome.FAILED, Refusal("internal_error")


def _log_too_big(connection: ServerConnection, name: str, error: TooBigToSendError) -> None:
    """Log a result that is too large, at most every 10 s, as a client can cause it at will."""
    suppressed = _too_big.allow(trio.current_time())
    if suppressed is not None:
        connection.log.warning(
            "too_big_to_send",
            handler=name,
            size=error.size,
            limit=error.limit,
            suppressed=suppressed,
        )
