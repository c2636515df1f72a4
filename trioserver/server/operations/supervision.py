"""Background work that is restarted when it fails.

A task in a nursery that raises cancels all its siblings, and so the server with all connections.
Therefore whatever runs beside the connections is run by `supervise`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import structlog
import trio

from trioserver.logs.tracebacks import name_of, traceback_of

log: Final = structlog.get_logger("trioserver")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
"""Seconds until a task that failed is run again, doubled each time."""

_RECOVERY_WINDOW: Final = 60.0
"""Seconds without a failure after which the next one counts as the first."""


async def supervise(
    run: Callable[..., Awaitable[object]],
    *,
    name: str | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run ``run`` until it returns or is cancelled. Whenever it raises, log that and run it again.

    ``run`` may take a ``task_status``. What it raises before it has started for the first time is
    raised here, so that a server that cannot start says why. ``name`` is for the log; None: the
    name of the function.
    """
    started = _Started(task_status)
    takes_status = "task_status" in inspect.signature(run).parameters
    if not takes_status:
        started.started()
    failures = 0
    while True:
        began = trio.current_time()
        try:
            await (run(task_status=started) if takes_status else run())
            return
        except Exception as error:
            if not started.is_set:
                raise
            failures = 1 if trio.current_time() - began >= _RECOVERY_WINDOW else failures + 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 20))
            _log_failure(
                error, name or str(getattr(run, "__qualname__", type(run).__name__)), pause
            )
            await trio.sleep(pause)


class _Started(trio.TaskStatus[None]):
    """Passes on the first `started` only; there are more after failures."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self.is_set = False
        self._task_status = task_status

    def started(self, value: Any = None) -> None:
        if not self.is_set:
            self.is_set = True
            self._task_status.started(value)


def _log_failure(error: Exception, name: str, pause: float) -> None:
    errors = "; ".join(map(name_of, _leaves(error)))
    traceback = traceback_of(error)
    log.error(
        "background_task_failed", task=name, error=errors, retry_in=pause, traceback=traceback
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
