"""What a rejected request or connection is: an exception, a log line, and one count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
import trio

from trioserver.auth.fingerprint import fingerprint
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.throttle import LogThrottle
from trioserver.telemetry.observer import Observer, Rejection
from trioserver.websocket.handshake import Head, RequestRejected

log: Final = structlog.get_logger("trioserver")

_DROP_LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines about connections that were dropped."""


class AdmissionRejected(RequestRejected):
    """Rejects a request that is well-formed. ``code`` is as of `Rejection`."""

    def __init__(
        self,
        code: str,
        status: int,
        reason: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        event: str = "request_rejected",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, reason, headers)
        self.code = code
        self.event = event
        self.details = details or {}


class RejectionReporter:
    """Logs each rejection, and tells the observers, which count it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._drop_throttle = LogThrottle(_DROP_LOG_INTERVAL)

    def rejected(self, rejection: RequestRejected, remote: str, head: Head | None) -> None:
        """Report a request that is going to be answered with an error."""
        path = "" if head is None else masked_path(head.path)
        code, event, details = "bad_request", "request_rejected", {}
        if isinstance(rejection, AdmissionRejected):
            code, event, details = rejection.code, rejection.event, dict(rejection.details)
        if may_log(event, remote):
            write = log.info if event == "request_rejected" else log.warning
            write(
                event,
                remote=remote,
                path=path,
                status=rejection.status,
                reason=rejection.reason,
                token=None if head is None else fingerprint(head.query.get("token")),
                **details,
            )
        self._observer.on_request_rejected(
            Rejection(
                remote=remote,
                path=path,
                status=rejection.status,
                reason=rejection.reason,
                code=code,
                origin=details.get("origin"),
            )
        )

    def dropped(self, peer: str, code: str, reason: str) -> None:
        """Report a connection that is closed without an answer.

        There is one log line for many, because they may come thousands of times a second.
        """
        suppressed = self._drop_throttle.allow(trio.current_time())
        if suppressed is not None:
            log.warning("connections_dropped", reason=code, suppressed=suppressed)
        self._observer.on_request_rejected(
            Rejection(remote=peer, path="", status=0, reason=reason, code=code)
        )
