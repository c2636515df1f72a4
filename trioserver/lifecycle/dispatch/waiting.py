"""Cheap ways to wait: for a task that is woken for each message, and work that rarely waits."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")


@types.coroutine
def resume(coroutine: Coroutine[Any, Any, _T], trap: Any) -> Generator[Any, Any, _T]:
    """Await the rest of a coroutine that was started with ``send(None)``, which returned ``trap``.

    A caller that starts a coroutine like this knows whether it waits at all, and sets up a deadline
    only then. Call this in the task that has started the coroutine.
    """
    while True:
        try:
            try:
                value = yield trap
            except BaseException as error:
                trap = coroutine.throw(error)
            else:
                trap = coroutine.send(value)
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]


class Parking:
    """A `trio.lowlevel.ParkingLot` for one task: it allocates nothing for each wait."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        """Wait for `unpark`. Only one task may wait at a time."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def unpark(self) -> None:
        """Wake the waiting task, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
