"""What a peer is told when its request is over, and what only the log is told."""

from __future__ import annotations

from typing import Any, Final

import trio

from protocol import Id, Refusal, TooBigToSendError
from protocol.codec import encode
from protocol.messages import Ack, Chunk
from trioserver.app.connection import Connection
from trioserver.app.functions import unwrap
from trioserver.logs.lines import may_log
from trioserver.logs.seldom import Seldom
from trioserver.logs.tracebacks import traceback_of
from trioserver.storage import DatabaseUnavailableError
from trioserver.telemetry.handling_times import Outcome
from trioserver.websocket.errors import without_departure
from trioserver.websocket.headers import encode_text

_QUOTES_NOTHING: Final = ("Encoding objects of type ", "Only ")
"""How those errors of msgspec begin that name types and no values."""

_too_big: Final = Seldom(10.0)


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


def acknowledge(connection: Connection, id: Id | None, result: Any) -> bytes | None:
    """Answer a request that has one coming.

    Returns the frame of an answer for which there is no room yet: it is the caller's to send then.
    Raises `UnencodableResult`, `TooBigToSendError`.
    """
    if id is not None and connection._session.close is None:
        ack = Ack(id=id) if result is None else Ack(id=id, data=result)
        frame = encode_text(encode_result(ack))
        if not connection._transmit_if_room(frame):
            return frame
    return None


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
        if isinstance(error, TooBigToSendError):
            _log_too_big(connection, name, error)
        return Outcome.REFUSED, error
    log = connection.log if id is None else connection.log.bind(request_id=id)
    user = connection.user.id
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
    if may_log("handler_failed", user=user):
        log.error("handler_failed", handler=name, traceback=traceback_of(error))
    return Outcome.FAILED, Refusal("internal_error")


def _log_too_big(connection: Connection, name: str, error: TooBigToSendError) -> None:
    """A client may ask for it any number of times."""
    suppressed = _too_big.ask(trio.current_time())
    if suppressed is not None:
        connection.log.warning(
            "too_big_to_send",
            handler=name,
            size=error.size,
            limit=error.limit,
            suppressed=suppressed,
        )
