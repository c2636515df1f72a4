"""A worker process: takes a plan on stdin, gives progress and a result on stdout.

``python -m trioserver.load.worker``; the conductor starts it.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import aclosing
from typing import Any, Final

import trio

from trioserver.load.file_limit import TooFewFiles, raise_file_limit
from trioserver.load.generator import Generator
from trioserver.load.pacing import clock
from trioserver.load.tokens import NoToken
from trioserver.load.worker_messages import (
    At,
    Done,
    Failed,
    Go,
    Progress,
    Start,
    Stop,
    line,
    lines,
    to_worker,
)

_PROGRESS_EVERY: Final = 0.5


class Worker:
    """One process's work; ``stdin`` ending is a `Stop`."""

    def __init__(self, start: Start) -> None:
        self._generator = Generator(start.plan, start.index)
        self._go_send, self._go = trio.open_memory_channel[float](1)

    async def run(self, stdin: trio.abc.ReceiveStream) -> None:
        """To the end, and the result on stdout."""
        failed: str | None = None
        async with trio.open_nursery() as nursery:
            working = trio.CancelScope()
            nursery.start_soon(self._obey, stdin, working)
            nursery.start_soon(self._report)
            with working:
                try:
                    await self._generator.run(self._barrier)
                except* NoToken as errors:
                    failed = str(errors.exceptions[0])
            nursery.cancel_scope.cancel()
        if failed is None:
            _say(Done(self._generator.tally.result(clock())))
        else:
            _say(Failed(failed))

    async def _obey(self, stdin: trio.abc.ReceiveStream, working: trio.CancelScope) -> None:
        async with aclosing(lines(stdin)) as said:
            async for text in said:
                message = to_worker(text)
                if isinstance(message, Go):
                    self._go_send.send_nowait(message.at)
                elif isinstance(message, Stop):
                    break
        working.cancel()

    async def _report(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_EVERY)
            _say(Progress(self._generator.tally.counts))

    async def _barrier(self, phase: str) -> float:
        _say(At(phase))
        return await self._go.receive()


def _say(message: Any) -> None:
    sys.stdout.buffer.write(line(message))
    sys.stdout.buffer.flush()


def main() -> None:
    """Ends with 0 where it could say what happened."""
    start = to_worker(sys.stdin.buffer.readline())
    assert isinstance(start, Start)
    try:
        raise_file_limit(start.plan.share(start.index).files)
    except TooFewFiles as error:
        _say(Failed(str(error)))
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # thousands of clients live on: look at them seldom
    try:
        trio.run(_run, start)
    except BrokenPipeError:  # the conductor has gone
        os._exit(1)


async def _run(start: Start) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        await Worker(start).run(stdin)


if __name__ == "__main__":
    main()
