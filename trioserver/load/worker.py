"""A worker process: reads a plan from stdin, writes its progress and result to stdout.

``python -m trioserver.load.worker``; the coordinator starts it.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import aclosing
from typing import Any, Final

import trio

from trioserver.load.file_limit import FileLimitError, raise_file_limit
from trioserver.load.generator import Generator
from trioserver.load.pacing import clock
from trioserver.load.tokens import TokenError
from trioserver.load.worker_messages import (
    AtBarrier,
    Done,
    Failed,
    Progress,
    Start,
    StartPhase,
    Stop,
    line,
    lines,
    to_worker,
)

_PROGRESS_EVERY: Final = 0.5


class Worker:
    """Runs a generator, and talks with the coordinator. The end of ``stdin`` means `Stop`."""

    def __init__(self, start: Start) -> None:
        self._generator = Generator(start.plan, start.index)
        self._go_send, self._go = trio.open_memory_channel[float](1)

    async def run(self, stdin: trio.abc.ReceiveStream) -> None:
        """Run to the end, and write the result to stdout."""
        failed: str | None = None
        async with trio.open_nursery() as nursery:
            working = trio.CancelScope()
            nursery.start_soon(self._obey, stdin, working)
            nursery.start_soon(self._report)
            with working:
                try:
                    await self._generator.run(self._barrier)
                except* TokenError as errors:
                    failed = str(errors.exceptions[0])
            nursery.cancel_scope.cancel()
        if failed is None:
            _write(Done(self._generator.recorder.result(clock())))
        else:
            _write(Failed(failed))

    async def _obey(self, stdin: trio.abc.ReceiveStream, working: trio.CancelScope) -> None:
        async with aclosing(lines(stdin)) as said:
            async for text in said:
                message = to_worker(text)
                if isinstance(message, StartPhase):
                    self._go_send.send_nowait(message.at)
                elif isinstance(message, Stop):
                    break
        working.cancel()

    async def _report(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_EVERY)
            _write(Progress(self._generator.recorder.counts))

    async def _barrier(self, phase: str) -> float:
        _write(AtBarrier(phase))
        return await self._go.receive()


def _write(message: Any) -> None:
    sys.stdout.buffer.write(line(message))
    sys.stdout.buffer.flush()


def main() -> None:
    """Exits with 0 if the result, or an error, could be reported."""
    start = to_worker(sys.stdin.buffer.readline())
    assert isinstance(start, Start)
    try:
        raise_file_limit(start.plan.share(start.index).files)
    except FileLimitError as error:
        _write(Failed(str(error)))
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # thousands of clients are long-lived: scan them rarely
    try:
        trio.run(_run, start)
    except BrokenPipeError:  # the coordinator has ended
        os._exit(1)


async def _run(start: Start) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        await Worker(start).run(stdin)


if __name__ == "__main__":
    main()
