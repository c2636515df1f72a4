"""Runs a plan: starts worker processes, synchronizes their phases and merges their results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final

import trio

from trioserver.load.counts import Counts
from trioserver.load.pacing import clock
from trioserver.load.plan import Plan
from trioserver.load.recorder import ProcessResult
from trioserver.load.result import RunResult
from trioserver.load.worker_messages import (
    AtBarrier,
    Done,
    Failed,
    Progress,
    Start,
    StartPhase,
    Stop,
    from_worker,
    line,
    lines,
)

OnProgress = Callable[[str, Counts], None]
"""Called with the phase, and the counts of all processes so far."""

_MODULE: Final = "trioserver.load.worker"

_PHASE_DELAY: Final = 0.05
"""Seconds between the arrival of the last worker at a barrier and the start of the phase."""

_SILENCE_LIMIT: Final = 60.0
"""Seconds. A worker reports twice a second; one that is silent for longer hangs."""

_STOP_TIMEOUT: Final = 15.0
"""Seconds for a worker to report its result after it was told to stop."""


class LoadTestError(Exception):
    """The test has no result; the text says why."""


class Coordinator:
    """One run of a plan. ``on_progress`` must not block."""

    def __init__(self, plan: Plan, on_progress: OnProgress | None = None) -> None:
        self._plan = plan
        self._on_progress = on_progress or (lambda phase, counts: None)
        self._processes: list[trio.Process] = []
        self._counts: dict[int, Counts] = {}
        self._results: dict[int, ProcessResult] = {}
        self._waiting: set[int] = set()
        self._phase = "start"
        self._stopping = trio.Event()

    def stop(self) -> None:
        """End early; `run` returns the results so far."""
        self._stopping.set()

    async def run(self) -> RunResult:
        """Run the plan. Raises `LoadTestError`. When cancelled, all processes are killed."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self._plan.processes):
                    process = await nursery.start(_run_process)
                    self._processes.append(process)
                nursery.start_soon(self._stop_when_told)
                async with trio.open_nursery() as listening:
                    for index, process in enumerate(self._processes):
                        listening.start_soon(self._listen, index, process)
                nursery.cancel_scope.cancel()
        except* LoadTestError as group:
            failure = group
        else:
            results = [self._results[index] for index in sorted(self._results)]
            return RunResult.of(self._plan, results, interrupted=self._stopping.is_set())
        raise LoadTestError(str(_first(failure))) from None

    async def _stop_when_told(self) -> None:
        await self._stopping.wait()
        await self._tell(Stop())
        await trio.sleep(_STOP_TIMEOUT)
        raise LoadTestError("a worker process did not stop in time")

    async def _tell(self, message: Any) -> None:
        for index, process in enumerate(self._processes):
            if index not in self._results and process.stdin is not None:
                # If it has ended, the task that reads from it reports that.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await process.stdin.send_all(line(message))

    async def _listen(self, index: int, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await process.stdin.send_all(line(Start(self._plan, index)))
        except trio.BrokenResourceError:
            raise LoadTestError("a worker process did not start") from None
        async with aclosing(lines(process.stdout)) as said:
            while True:
                with trio.move_on_after(_SILENCE_LIMIT) as silence:
                    text = await anext(said, None)
                if silence.cancelled_caught:
                    raise LoadTestError(f"a worker process was silent for {_SILENCE_LIMIT:g} s")
                if text is None:
                    raise LoadTestError("a worker process ended without a result")
                if await self._handle(index, from_worker(text)):
                    return

    async def _handle(self, index: int, message: AtBarrier | Progress | Done | Failed) -> bool:
        """Handle a message of a worker; returns whether it is the last one."""
        match message:
            case AtBarrier(phase=phase):
                self._waiting.add(index)
                if len(self._waiting) == self._plan.processes:
                    self._waiting.clear()
                    self._phase = phase
                    await self._tell(StartPhase(clock() + _PHASE_DELAY))
            case Progress(counts=counts):
                self._show(index, counts)
            case Done(result=result):
                self._results[index] = result
                self._show(index, result.counts)
                return True
            case Failed(message=text):
                raise LoadTestError(text)
        return False

    def _show(self, index: int, counts: Counts) -> None:
        self._counts[index] = counts
        total = Counts()
        for one in self._counts.values():
            total.add(one)
        self._on_progress(self._phase, total)


async def _run_process(
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a worker process. It is killed when this is cancelled. Ctrl-C is not passed on to it."""
    options: Mapping[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}
    run = partial(
        trio.run_process,
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
        **options,
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        task_status.started(process)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
