"""Limits on the log lines that a client can cause. Suppressed lines are counted and summarized.

Each server has a `LineThrottle`. Code that runs on behalf of one of its connections finds it in a
context variable: ``if may_log("tls_handshake_failed", remote): log.info(...)``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

import attrs
import structlog
import trio

from trioserver.logs.context import MAX_USER
from trioserver.logs.source_limiter import Throttle
from trioserver.peers.addresses import key_of

BURST: Final = 20.0
"""Seconds' worth of lines that may come at once."""

SUMMARY_INTERVAL: Final = 10.0
"""Seconds between two summaries."""

log: Final = structlog.get_logger("trioserver")


@attrs.frozen
class _Kind:
    event: str
    by_user: bool


class LineThrottle:
    """Says which lines are written, and writes how many were not."""

    def __init__(self, per_source: int, per_second: int) -> None:
        self._strangers = Throttle(per_source, per_second, burst=BURST)
        self._users = Throttle(per_source, burst=BURST)

    def reconfigure(self, per_source: int, per_second: int) -> None:
        """Other bounds from now on; `LogConfig` says what they are."""
        self.summarize()
        self._strangers = Throttle(per_source, per_second, burst=BURST)
        self._users = Throttle(per_source, burst=BURST)

    def use(self) -> None:
        """From here on in this task, and in those it starts, `may_log` asks this one."""
        if _THROTTLE.get() is not self:
            _THROTTLE.set(self)

    def allow(self, event: str, remote: str, user: str | None) -> bool:
        """As of `may_log`."""
        now = trio.current_time()
        if user is not None:
            return self._users.allow(user[:MAX_USER], _Kind(event, by_user=True), now)
        return self._strangers.allow(key_of(remote), _Kind(event, by_user=False), now)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell of suppressed lines until cancelled, and at the end."""
        task_status.started()
        try:
            while True:
                await trio.sleep(SUMMARY_INTERVAL)
                self.summarize()
        finally:
            self.summarize()

    def summarize(self) -> None:
        """Write how many lines were suppressed since the last time, of which event, from whom."""
        for throttle in (self._strangers, self._users):
            for suppressed in throttle.collect():
                kind = suppressed.kind
                assert isinstance(kind, _Kind)
                source = suppressed.source or "several"
                whose = {"user": source} if kind.by_user else {"remote": source}
                log.warning("log_lines_suppressed", of=kind.event, count=suppressed.count, **whose)


_THROTTLE: Final[ContextVar[LineThrottle | None]] = ContextVar("trioserver_lines", default=None)


def may_log(event: str, remote: str = "", *, user: str | None = None) -> bool:
    """Whether one more line with this event may be written. If not, a summary tells of it.

    ``remote`` is the peer who causes it, ``user`` the id of a user whose token was good: their
    lines are bounded by themselves, so that no stranger uses them up. Outside of a server: True.
    """
    throttle = _THROTTLE.get()
    return throttle is None or throttle.allow(event, remote, user)
