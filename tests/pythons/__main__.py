"""Runs the test suite on every Python that is found: `make test-all`.

    python -m tests.pythons [--ends] [--list] [arguments for pytest]

``--ends`` takes the oldest and the newest of them only. Each has a virtual environment of its own,
`.venvs/VERSION`, which stays. The exit code is 0 if the suite passed on each.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.pythons.find import OLDEST, Interpreter, find

_ROOT: Final = Path(__file__).parents[2]
_OF_MAKE: Final = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")


def _test(interpreter: Interpreter, arguments: list[str]) -> int:
    """Run `make test` with it; the exit code."""
    command = [
        os.environ.get("MAKE", "make"),
        "--no-print-directory",
        "test",
        f"PYTHON={interpreter.path}",
        f"VENV=.venvs/{interpreter.name}",
        f"ARGS={shlex.join(arguments)}",
    ]
    # Without what a `make` above this one hands down, which would go over the arguments.
    environment = {k: v for k, v in os.environ.items() if k not in _OF_MAKE}
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    ends, only_list = "--ends" in arguments, "--list" in arguments
    rest = [each for each in arguments if each not in ("--ends", "--list")]
    found = find()
    if not found:
        _say(f"no Python {'.'.join(map(str, OLDEST))} or newer was found")
        return 1
    _say("found " + ", ".join(f"{one.name} ({one.path})" for one in found))
    if only_list:
        return 0
    chosen = found if not ends or len(found) == 1 else [found[0], found[-1]]
    outcomes: dict[str, str] = {}
    for number, interpreter in enumerate(chosen, 1):
        _say(f"{number} of {len(chosen)}: the suite on Python {interpreter.name}")
        begun = time.monotonic()
        code = _test(interpreter, rest)
        word = "passed" if code == 0 else f"FAILED ({code})"
        outcomes[interpreter.name] = f"{word} after {(time.monotonic() - begun) / 60:.1f} min"
        _say(f"Python {interpreter.name}: {outcomes[interpreter.name]}")
    _say("in all: " + "; ".join(f"{name} {outcome}" for name, outcome in outcomes.items()))
    return int(any("FAILED" in outcome for outcome in outcomes.values()))


def _say(text: str) -> None:
    print(f"test-all: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
