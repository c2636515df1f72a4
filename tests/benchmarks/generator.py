"""The load generator: a process of its own. Takes a job on stdin, gives figures on stdout."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tests.benchmarks import loads
from tests.benchmarks.machine import GENERATOR_CORE, prepare_process
from tests.benchmarks.settings import Job
from tests.benchmarks.wire import Refused

LOADS: Final[Mapping[str, Callable[[Job], loads.Figures]]] = {
    "closed": loads.closed_loop,
    "open": loads.open_loop,
    "flood": loads.flood,
    "fan_out": loads.fan_out,
    "storm": loads.storm,
    "idle": loads.idle,
}

BUSY: Final = 0.9
"""A generator that needs more of its core than this may have been the limit."""

_MODULE: Final = "tests.benchmarks.generator"

_TIMEOUT: Final = 300.0


class Failed(Exception):
    """A measurement that did not come to its end, with what the generator said."""


def run(job: Job) -> loads.Figures:
    """Do the job in a process of its own. Raises `Failed`."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE],
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"no end after {_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise Failed(done.stderr.decode(errors="replace").strip()[-600:])
    return msgspec.json.decode(done.stdout, type=loads.Figures)


def main() -> None:
    """Exits with 1 and a line on stderr where the server did not do as it should."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    prepare_process(GENERATOR_CORE)
    gc.disable()  # it has no cycles, and no pauses then
    try:
        figures = LOADS[job.load](job)
    except (Refused, TimeoutError, ConnectionError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
