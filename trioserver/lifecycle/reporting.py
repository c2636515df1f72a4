"""What is told of one connection: to the observers, in the spans of its opening, in the log."""

from __future__ import annotations

import attrs
import trio

from trioserver.app.connection import Connection
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.observer import CLIENT_DISCONNECTED, AuthAttempt, Observer


class Account:
    """Keeps the fingerprint of the latest ``token``."""

    __slots__ = ("_connection", "_observer", "token")

    def __init__(self, connection: Connection, observer: Observer) -> None:
        self._connection = connection
        self._observer = observer
        self.token: str | None = None

    def settled(self) -> None:
        """The first authentication has ended: with `ready`, or a refusal, or the peer has left."""
        phases, close = self._connection._phases, self._connection._session.close
        begun = phases.awaiting_auth
        assert begun is not None, "settled before the handshake was accepted"
        outcome = "ready"
        if phases.ready is None:
            outcome = close.reason if close and close.reason else CLIENT_DISCONNECTED
        if self._connection._tracing is not None:
            self._connection._tracing.settled(outcome)
        self._attempted(outcome, begun)

    def refreshed(self, outcome: str, begun: float) -> None:
        """That with a new token has: "refreshed", or the error code of the refusal."""
        self._attempted(outcome, begun, refresh=True)

    def _attempted(self, outcome: str, begun: float, *, refresh: bool = False) -> None:
        connection, user = self._connection, self._connection._user
        code = None if outcome in ("ready", "refreshed") else outcome
        attempt = AuthAttempt(
            method="websocket",
            code=code,
            refresh=refresh,
            user=None if user is None else user.id,
            remote=connection.request.remote,
            path=connection.request.path,
            token_id=None if user is None else user.token_id,
            token=self.token,
            duration=trio.current_time() - begun,
            connection=connection,
        )
        self._observer.on_auth_attempt(attempt)
        if code is not None and code != CLIENT_DISCONNECTED:
            self._log_rejection(attempt, code)

    def _log_rejection(self, attempt: AuthAttempt, code: str) -> None:
        """If the token was good, ``user`` and ``token_id`` are known and logged as well."""
        event = "token_refresh_failed" if attempt.refresh else "authentication_failed"
        if self._may_log(event):
            self._connection.log.info(
                event,
                method=attempt.method,
                reason=code,
                remote=attempt.remote,
                path=attempt.path,
                token=attempt.token,
                token_id=attempt.token_id,
            )

    def closed(self) -> None:
        """It is over: one line with the whole story."""
        connection, now = self._connection, trio.current_time()
        close, peer = connection._session.close, connection._websocket.peer_close
        phases = connection._phases
        code = close.code if close and close.reason else peer.code if peer else 1006
        reason = close.reason if close and close.reason else CLIENT_DISCONNECTED
        self._observer.on_closed(connection, code, reason, phases)
        if self._may_log("connection_closed"):
            connection.log.info(
                "connection_closed",
                path=masked_path(connection.request.path),
                remote=connection.request.remote,
                code=code,
                reason=reason,
                duration_ms=round((now - phases.handshake) * 1000),
                **phases.lengths_ms(now),
                **attrs.asdict(connection.statistics(), recurse=False),
            )
        if connection._tracing is not None:
            connection._tracing.settled(CLIENT_DISCONNECTED)

    def failed(self, event: str, error: Exception) -> None:
        """Something was raised that nobody expected."""
        if self._may_log(event):
            self._connection.log.error(event, traceback=traceback_of(error))

    def _may_log(self, event: str) -> bool:
        user = self._connection._user
        remote = self._connection.request.remote
        return may_log(event, remote, user=None if user is None else user.id)
