"""The signals that drain, end or reload a server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Final

import structlog
import trio

log: Final = structlog.get_logger("trioserver")

DRAIN: Final = {signal.SIGTERM: "shutdown", signal.SIGINT: "shutdown"}
"""Signals that drain, with the reason that clients get."""

RELOAD: Final[list[signal.Signals]] = []

if sys.platform != "win32":
    DRAIN[signal.SIGUSR2] = "restart"
    RELOAD.append(signal.SIGHUP)


async def watch_signals(
    *,
    drain: Callable[[str], bool],
    end: Callable[[], None],
    reload: Callable[[], None],
    task_status: trio.TaskStatus[None],
) -> None:
    """Handle signals until cancelled. The first one that drains does so, a second ends at once.

    ``drain`` is called with the reason, and returns False if draining had begun before. The
    callbacks must not wait.
    """
    with trio.open_signal_receiver(*DRAIN, *RELOAD) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number in RELOAD:
                reload()
            elif drain(DRAIN[signal.Signals(number)]):
                log.info("draining", signal=name)
            else:
                log.warning("forced_shutdown", signal=name)
                end()
