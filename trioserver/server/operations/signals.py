"""What signals ask of a server that is a program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Final

import structlog
import trio

log: Final = structlog.get_logger("trioserver")

DRAIN: Final = {signal.SIGTERM: "shutdown", signal.SIGINT: "shutdown"}
"""Signals that drain, and the reason that clients are told."""

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
    """The first signal that drains does so, the second ends at once. Until cancelled.

    ``drain`` is given the reason, and returns False where it had begun before. None of them waits.
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
