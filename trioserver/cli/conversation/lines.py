"""Reads lines of a terminal or a pipe without a thread, so that reading can be cancelled."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator
from typing import IO, Final

import trio

_READ_BYTES: Final = 64 * 1024
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024


async def read_lines(file: IO[str]) -> AsyncGenerator[str, None]:
    """Yield the lines of a text file, a pipe or a terminal, without line ends.

    Cancelling this loses an incomplete line. A line above 16 MiB is split.
    """
    try:
        descriptor = file.fileno()
    except (io.UnsupportedOperation, ValueError):
        # Not a file of the operating system, so it does not block.
        for line in file:
            await trio.lowlevel.checkpoint()
            yield line.rstrip("\r\n")
        return
    rest = b""
    while data := await _read(descriptor):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line_bytes in lines:
            yield line_bytes.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")


async def _read(descriptor: int) -> bytes:
    try:
        await trio.lowlevel.wait_readable(descriptor)
    except OSError:  # a regular file, which is always readable
        await trio.lowlevel.checkpoint()
    return os.read(descriptor, _READ_BYTES)
