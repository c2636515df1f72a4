"""`trioserver`, on one core, with as many files as it may have, and with a clock that can be set.

`python -m tests.attacks.server CLOCK serve ...`: CLOCK is a file with a number in eight bytes, as
`struct` has a "d": the seconds by which this process's clock is wrong. It may change at any time.
"""

from __future__ import annotations

import mmap
import os
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

CORE = 0


def main() -> None:
    prepare_process(CORE)
    time.time = wrong_clock(Path(sys.argv.pop(1)))
    from trioserver.cli.main import main  # not before: clocks are defaults of parameters

    main()


def wrong_clock(file: Path) -> Callable[[], float]:
    """`time.time`, as wrong as the file says."""
    with file.open("r+b") as opened:
        offset = mmap.mmap(opened.fileno(), 8)
    right = time.time
    return lambda: right() + struct.unpack("d", offset)[0]


def set_clock(file: Path, offset: float) -> None:
    """Have the clock of whoever reads this file be wrong by ``offset`` seconds."""
    with file.open("r+b") as opened:
        opened.write(struct.pack("d", offset))


def prepare_process(core: int) -> None:
    """Pin this process to a core, and let it have as many sockets as it may."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    raise_files()


def raise_files() -> int:
    """Let this process have as many files as it may; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


if __name__ == "__main__":
    main()
