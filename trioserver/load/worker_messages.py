"""Messages between the coordinator and its worker processes: JSON, one object per line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, TypeAlias

import msgspec
import trio

from trioserver.load.counts import Counts
from trioserver.load.plan import Plan
from trioserver.load.recorder import ProcessResult

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""A result has a few histograms and one object for each second."""


class Start(msgspec.Struct, tag=True):
    """To a worker: the first message."""

    plan: Plan
    index: int


class StartPhase(msgspec.Struct, tag=True):
    """To a worker: all workers are at the barrier; start the phase at this time of the clock."""

    at: float


class Stop(msgspec.Struct, tag=True):
    """To a worker: end early, and report the result."""


class AtBarrier(msgspec.Struct, tag=True):
    """From a worker: it waits at the barrier before this phase."""

    phase: str


class Progress(msgspec.Struct, tag=True):
    """From a worker: its counts, twice a second."""

    counts: Counts


class Done(msgspec.Struct, tag=True):
    """From a worker: its result, the last message."""

    result: ProcessResult


class Failed(msgspec.Struct, tag=True):
    """From a worker: why it has no result, the last message."""

    message: str


FromWorker: TypeAlias = AtBarrier | Progress | Done | Failed
ToWorker: TypeAlias = Start | StartPhase | Stop

_from_worker: Final = msgspec.json.Decoder(FromWorker)
_to_worker: Final = msgspec.json.Decoder(ToWorker)

from_worker: Final = _from_worker.decode
to_worker: Final = _to_worker.decode


def line(message: Any) -> bytes:
    """Encode a message as a line."""
    return msgspec.json.encode(message) + b"\n"


async def lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    """The lines of a stream. Raises `ValueError` for a line that is too long."""
    pieces: list[bytes] = []
    size = 0
    async for data in stream:
        *whole, rest = bytes(data).split(b"\n")
        for end in whole:
            yield b"".join((*pieces, end))
            pieces, size = [], 0
        if rest:
            pieces.append(rest)
            size += len(rest)
        if size > MAX_LINE_BYTES:
            raise ValueError(f"a line is longer than {MAX_LINE_BYTES} bytes")
