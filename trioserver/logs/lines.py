"""Limits on the log lines that a client can cause. Suppressed lines are counted and summarized.

Each server has a `LineLimiter`. Code that runs on behalf of one of its connections finds it in a
context variable: ``if may_log("tls_handshake_failed", remote): log.info(...)``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

import attrs
import structlog
import trio

from trioserver.logs.context import MAX_USER
from trioserver.logs.source_limiter import SourceLimiter, Suppressed
from trioserver.peers.addresses import address_key

BURST: Final = 20.0
"""Seconds' worth of lines that may come at once."""

SUMMARY_INTERVAL: Final = 10.0
"""Seconds between two summaries."""

log: Final = structlog.get_logger("trioserver")


@attrs.frozen
class _Kind:
    event: str
    by_user: bool


class _Budget:
    """The lines of addresses, or of users. Tracebacks take at most half of a source's lines.

    A traceback is up to a thousand times as long as other lines, and a handler that always fails
    must not suppress the line that says how its connection ended.
    """

    def __init__(self, per_source: int, per_second: int | None = None) -> None:
        self._lines = SourceLimiter(per_source, per_second, burst=BURST)
        self._tracebacks = SourceLimiter(per_source / 2, burst=BURST)

    def allow(self, source: str, kind: _Kind, now: float, *, traceback: bool) -> bool:
        if traceback and not self._tracebacks.allow(source, kind, now):
            self._lines.suppress(source, kind)
            return False
        return self._lines.allow(source, kind, now)

    def collect(self) -> list[Suppressed]:
        self._tracebacks.collect()  # they are counted with the other lines
        return self._lines.collect()


class LineLimiter:
    """Decides which lines are written, and logs how many were suppressed."""

    def __init__(self, per_source: int, per_second: int) -> None:
        self._addresses = _Budget(per_source, per_second)
        self._users = _Budget(per_source)

    def reconfigure(self, per_source: int, per_second: int) -> None:
        """Use other limits from now on. See `LogConfig`."""
        self.summarize()
        self._addresses = _Budget(per_source, per_second)
        self._users = _Budget(per_source)

    def use(self) -> None:
        """Make `may_log` ask this limiter, in this task and in those that it starts."""
        if _LIMITER.get() is not self:
            _LIMITER.set(self)

    def allow(self, event: str, remote: str, user: str | None, *, traceback: bool) -> bool:
        """See `may_log`."""
        budget = self._addresses if user is None else self._users
        source = address_key(remote) if user is None else user[:MAX_USER]
        kind = _Kind(event, by_user=user is not None)
        return budget.allow(source, kind, trio.current_time(), traceback=traceback)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Log summaries of suppressed lines until cancelled, and a last one then."""
        task_status.started()
        try:
            while True:
                await trio.sleep(SUMMARY_INTERVAL)
                self.summarize()
        finally:
            self.summarize()

    def summarize(self) -> None:
        """Log how many lines were suppressed since the last call, by event and source."""
        for suppressed in (*self._addresses.collect(), *self._users.collect()):
            kind = suppressed.kind
            assert isinstance(kind, _Kind)
            source = suppressed.source or "several"
            whose = {"user": source} if kind.by_user else {"remote": source}
            log.warning("log_lines_suppressed", of=kind.event, count=suppressed.count, **whose)


_LIMITER: Final[ContextVar[LineLimiter | None]] = ContextVar("trioserver_lines", default=None)


def may_log(
    event: str, remote: str = "", *, user: str | None = None, traceback: bool = False
) -> bool:
    """Return whether a line with this event may be written. If not, it is counted in a summary.

    ``user`` is the id of an authenticated user, who has a budget of lines of their own, so that no
    other client uses it up. Without it, ``remote`` is the address that causes the line. Set
    ``traceback`` for a line with a traceback. Outside of a server every line may be written.
    """
    limiter = _LIMITER.get()
    return limiter is None or limiter.allow(event, remote, user, traceback=traceback)
