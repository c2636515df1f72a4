"""Reports what happens to a connection to the observers, the spans and the log."""

from __future__ import annotations

import attrs
import trio

from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.observer import CLIENT_DISCONNECTED, AuthAttempt
from trioserver.websocket.close_frame import CloseCode


def report_auth_done(connection: ServerConnection) -> None:
    """Report the first authentication: `ready` was sent, or an error, or the client left."""
    phases = connection.phases
    assert phases.awaiting_auth is not None, "done before the handshake was accepted"
    outcome = "ready" if phases.ready is not None else _reason(connection)
    if connection.tracing is not None:
        connection.tracing.finish_auth_span(outcome)
    _report_attempt(connection, outcome, phases.awaiting_auth)


def report_refresh(connection: ServerConnection, outcome: str, began: float) -> None:
    """Report a token refresh: "refreshed", or the error code of the refusal."""
    _report_attempt(connection, outcome, began, refresh=True)


def report_closed(connection: ServerConnection) -> None:
    """Report the end of the connection, and log one summary line."""
    now, phases, request = trio.current_time(), connection.phases, connection.request
    close, peer = connection.protocol.close, connection.websocket.close_received
    code = CloseCode.ABNORMAL_CLOSURE if peer is None else peer.code
    if close and close.reason:
        code = close.code
    code = int(code)  # a log line shows the number
    reason = _reason(connection)
    connection.context.observer.on_closed(connection.facade, code, reason, phases)
    if _may_log(connection, "connection_closed"):
        connection.log.info(
            "connection_closed",
            path=masked_path(request.path),
            remote=request.remote,
            code=code,
            reason=reason,
            duration_ms=round((now - phases.handshake) * 1000),
            **phases.lengths_ms(now),
            **attrs.asdict(connection.statistics(), recurse=False),
        )
    if connection.tracing is not None:
        connection.tracing.finish_auth_span(CLIENT_DISCONNECTED)


def report_error(connection: ServerConnection, event: str, error: Exception) -> None:
    """Log an unexpected exception with its traceback."""
    if _may_log(connection, event, traceback=True):
        connection.log.error(event, traceback=traceback_of(error))


def _reason(connection: ServerConnection) -> str:
    """Why the connection has ended: the error code, or that the client disconnected."""
    close = connection.protocol.close
    return close.reason if close and close.reason else CLIENT_DISCONNECTED


def _report_attempt(
    connection: ServerConnection, outcome: str, began: float, *, refresh: bool = False
) -> None:
    user, request = connection.user, connection.request
    attempt = AuthAttempt(
        method="websocket",
        code=None if outcome in ("ready", "refreshed") else outcome,
        refresh=refresh,
        user=None if user is None else user.id,
        remote=request.remote,
        path=request.path,
        token_id=None if user is None else user.token_id,
        token=connection.token,
        duration=trio.current_time() - began,
        connection=connection.facade,
    )
    connection.context.observer.on_auth_attempt(attempt)
    if attempt.code is not None and attempt.code != CLIENT_DISCONNECTED:
        _log_rejection(connection, attempt)


def _log_rejection(connection: ServerConnection, attempt: AuthAttempt) -> None:
    """Log a rejected token; the user and ``token_id`` too if the token was valid."""
    event = "token_refresh_failed" if attempt.refresh else "authentication_failed"
    if _may_log(connection, event):
        connection.log.info(
            event,
            method=attempt.method,
            reason=attempt.code,
            remote=attempt.remote,
            path=attempt.path,
            token=attempt.token,
            token_id=attempt.token_id,
        )


def _may_log(connection: ServerConnection, event: str, *, traceback: bool = False) -> bool:
    user = None if connection.user is None else connection.user.id
    return may_log(event, connection.request.remote, user=user, traceback=traceback)
