"""Waiting, made cheap: for tasks that are woken for each message, and work that mostly waits for
nothing."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import trio

_T = TypeVar("_T")


@types.coroutine
def go_on(coroutine: Coroutine[Any, Any, _T], trap: Any) -> Generator[Any, Any, _T]:
    """Await the rest of a coroutine that was begun with ``send(None)``, which gave ``trap``.

    Who begins it so knows whether it has to wait at all: a deadline, and whatever else is only of
    use while somebody waits, need not be set up before. To be used in the task that has begun it.
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
    """Where one task waits to be woken: a `trio.lowlevel.ParkingLot` without the lot."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def park(self) -> None:
        """Wait for `unpark`. No second task may wait here."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def unpark(self) -> None:
        """Wake the task that waits, if one does."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
