"""What the conductor and its worker processes say to each other: JSON, one object a line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, TypeAlias

import msgspec
import trio

from trioserver.load.histogram import Counts
from trioserver.load.plan import Plan
from trioserver.load.recorder import Result

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""A result has a few histograms and a line for each second."""


class Start(msgspec.Struct, tag=True):
    """To a worker, first of all."""

    plan: Plan
    index: int


class Go(msgspec.Struct, tag=True):
    """All are at the barrier: begin at this instant of the machine's clock."""

    at: float


class Stop(msgspec.Struct, tag=True):
    """Come to the end, and say what was found."""


class At(msgspec.Struct, tag=True):
    """From a worker: it is at the barrier before this phase."""

    phase: str


class Progress(msgspec.Struct, tag=True):
    """From a worker, twice a second: a sign of life."""

    counts: Counts


class Done(msgspec.Struct, tag=True):
    """From a worker, last of all."""

    result: Result


class Failed(msgspec.Struct, tag=True):
    """From a worker, in place of a result: why in a sentence."""

    message: str


FromWorker: TypeAlias = At | Progress | Done | Failed
ToWorker: TypeAlias = Start | Go | Stop

_from_worker: Final = msgspec.json.Decoder(FromWorker)
_to_worker: Final = msgspec.json.Decoder(ToWorker)

from_worker: Final = _from_worker.decode
to_worker: Final = _to_worker.decode


def line(message: Any) -> bytes:
    """A message as it is written."""
    return msgspec.json.encode(message) + b"\n"


async def lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    """The lines that come, until the end. Raises `ValueError` for one that has none."""
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
            raise ValueError("a line without an end")
