"""What is told of one connection: to the observers, in the spans of its opening, in the log."""

from __future__ import annotations

import attrs
import trio

from trioserver.app.connection import Connection
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.counts import PEER_LEFT
from trioserver.telemetry.observer import Attempt, Observer
from trioserver.telemetry.phases import Timings


class Account:
    """Keeps when what happened (``timings``), and the fingerprint of the latest ``token``."""

    __slots__ = ("_connection", "_observer", "timings", "token")

    def __init__(self, connection: Connection, observer: Observer, *, begun: float) -> None:
        self._connection = connection
        self._observer = observer
        self.timings = Timings(begun=begun)
        self.token: str | None = None

    def settled(self) -> None:
        """The first authentication has ended: with `ready`, or a refusal, or the peer has left."""
        begun, close = self.timings.accepted, self._connection._session.close
        assert begun is not None, "settled before the handshake was accepted"
        outcome = "ready"
        if self.timings.ready is None:
            outcome = close.reason if close and close.reason else PEER_LEFT
        if self._connection._tracing is not None:
            self._connection._tracing.settled(outcome)
        self._attempted(outcome, begun)

    def refreshed(self, outcome: str, begun: float) -> None:
        """That with a new token has: "refreshed", or the error code of the refusal."""
        self._attempted(outcome, begun, refresh=True)

    def _attempted(self, outcome: str, begun: float, *, refresh: bool = False) -> None:
        duration = trio.current_time() - begun
        attempt = Attempt(outcome=outcome, duration=duration, refresh=refresh, token=self.token)
        self._observer.attempted(self._connection, attempt)
        if outcome not in ("ready", "refreshed", PEER_LEFT):
            self._log_refusal("refresh_refused" if refresh else "connection_refused", outcome)

    def _log_refusal(self, event: str, reason: str) -> None:
        """Who the user is stands beside it where the token was good, and so does the token's id."""
        connection = self._connection
        if not self._may_log(event):
            return
        connection.log.info(
            event,
            reason=reason,
            remote=connection.request.remote,
            path=masked_path(connection.request.path),
            token=self.token,
            token_id=None if connection._user is None else connection._user.token_id,
        )

    def closed(self) -> None:
        """It is over: one line with the whole story."""
        connection, now = self._connection, trio.current_time()
        close, peer = connection._session.close, connection._websocket.peer_close
        code = close.code if close and close.reason else peer.code if peer else 1006
        reason = close.reason if close and close.reason else "peer left"
        self._observer.closed(connection, code, reason, self.timings)
        if self._may_log("connection_closed"):
            connection.log.info(
                "connection_closed",
                path=masked_path(connection.request.path),
                remote=connection.request.remote,
                code=code,
                reason=reason,
                duration_ms=round((now - self.timings.begun) * 1000),
                **self.timings.phases_ms(now),
                **attrs.asdict(connection.statistics(), recurse=False),
            )
        if connection._tracing is not None:
            connection._tracing.settled(PEER_LEFT)

    def failed(self, event: str, error: Exception) -> None:
        """Something was raised that nobody expected."""
        if self._may_log(event):
            self._connection.log.error(event, traceback=traceback_of(error))

    def _may_log(self, event: str) -> bool:
        user = self._connection._user
        remote = self._connection.request.remote
        return may_log(event, remote, user=None if user is None else user.id)
