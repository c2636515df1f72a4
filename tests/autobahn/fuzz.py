"""``python -m tests.autobahn.fuzz``: Autobahn's fuzzing client against the data plane.

Sets up what it needs, prints a table for each way of reading, and fails where a case is worse than
with trio-websocket. Pages about each case are left in ``.venv-autobahn/report/``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

import trio

from tests.autobahn.echo import serve_echo
from tests.autobahn.report import GROUPS, Result, complaints, read_report, table
from tests.autobahn.suite import HOME, WSTEST, NoPython27, install
from trioserver.websocket.poller import make_poller

_TIMEOUT: Final = 300.0
"""Seconds; half a minute is what it takes."""

_SOURCES: Final = ("epoll", "tasks") if sys.platform == "linux" else ("tasks",)
"""How sockets are read: all in one place, where there is epoll, or each in a task of its own."""

_AGENT: Final = "trioserver"


async def fuzz(directory: Path) -> dict[str, list[Result]]:
    """Run all cases on each way of reading, side by side; reports are left in ``directory``.

    Raises a group, with a `RuntimeError` of what Autobahn printed last where it has failed.
    """
    results: dict[str, list[Result]] = {}

    async def run(source: str) -> None:
        results[source] = await _fuzz(source, directory / source)

    with trio.fail_after(_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for source in _SOURCES:
                nursery.start_soon(run, source)
    return {source: results[source] for source in _SOURCES}


async def _fuzz(source: str, directory: Path) -> list[Result]:
    poller = make_poller() if source == "epoll" else None
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    handler = partial(serve_echo, poller=poller)
    async with trio.open_nursery() as nursery:
        if poller is not None:
            nursery.start_soon(poller.run)
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        await _run_client(f"ws://127.0.0.1:{port}", directory)
        nursery.cancel_scope.cancel()
    index = await trio.Path(directory / "index.json").read_text()
    return read_report(json.loads(index)[_AGENT])


async def _run_client(url: str, directory: Path) -> None:
    await trio.Path(directory).mkdir(parents=True, exist_ok=True)
    await trio.Path(directory / "index.json").unlink(missing_ok=True)
    spec = {
        "outdir": str(directory),
        "servers": [{"agent": _AGENT, "url": url}],
        "cases": [f"{group}.*" for group in GROUPS],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    await trio.Path(directory / "spec.json").write_text(json.dumps(spec))
    ended = await trio.run_process(
        [WSTEST, "--mode", "fuzzingclient", "--spec", directory / "spec.json"],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ended.returncode != 0 or not await trio.Path(directory / "index.json").exists():
        raise RuntimeError(ended.stdout.decode(errors="replace")[-2000:])


def main() -> int:
    """The exit status is 0 when there is nothing to complain of."""
    try:
        install()
    except NoPython27 as error:
        print(error, file=sys.stderr)
        return 1
    directory = HOME / "report"
    wrong = []
    for source, results in trio.run(fuzz, directory).items():
        print(f"\nread by {source}, see {directory / source}/index.html", *table(results), sep="\n")
        wrong += [f"{source}: {complaint}" for complaint in complaints(results)]
    print("", *(wrong or ["nothing is worse than with trio-websocket"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
