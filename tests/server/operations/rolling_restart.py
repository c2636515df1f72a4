"""A rolling restart under load: a new process listens, the old one sends its clients over.

`python -m tests.server.operations.rolling_restart` measures one, and writes it into
docs/operating.md.
"""

from __future__ import annotations

import re
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import attrs
import trio

from tests.server.operations.processes import Process, started, token, write_application
from tests.support.patience import PATIENCE
from trioserver.client import Client, ConnectionLostError, State, connect

How: TypeAlias = Literal["socket", "reuse_port"]

_PAUSE: Final = 0.02  # seconds between a client's requests
_DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "operating.md"
_BEGIN: Final = "<!-- rolling restart: made by `make rolling-restart` -->\n"
_END: Final = "<!-- end -->\n"
_BAR: Final = 40  # characters of the longest bar


@attrs.define
class Outcome:
    """What the clients saw. Times are in seconds, from the signal on where not said otherwise."""

    clients: int
    drain_period: float
    acknowledged: set[int] = attrs.field(factory=set)
    """The numbers that a server said it had kept."""
    stored: Counter[int] = attrs.field(factory=Counter)
    """The numbers that the servers have kept, and how often."""
    unanswered: int = 0
    """Requests whose connection ended before the answer; each was asked again."""
    came_back: list[float] = attrs.field(factory=list)
    """When each client was ready on the new server."""
    away: list[float] = attrs.field(factory=list)
    """For how long it was not."""
    drained_after: float = 0.0

    @property
    def lost(self) -> set[int]:
        """What was acknowledged and is not there."""
        return self.acknowledged - set(self.stored)


class _Load:
    """Clients that ask on and on, each number until it is acknowledged."""

    def __init__(self, outcome: Outcome, url: str) -> None:
        self._outcome = outcome
        self._url = url
        self._number = 0
        self._ready = 0
        self._all_ready = trio.Event()
        self._stopping = False
        self.signalled_at: float | None = None
        self.all_back = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self._outcome.clients):
                nursery.start_soon(self._client, number)
            await self._all_ready.wait()
            task_status.started()

    def stop(self) -> None:
        """Let each client end after the answer it waits for."""
        self._stopping = True

    async def _client(self, number: int) -> None:
        left_at = 0.0

        def on_state(state: State) -> None:
            nonlocal left_at
            now = trio.current_time()
            if state is State.RECONNECTING:
                left_at = now
            elif state is State.READY and self.signalled_at is not None:
                self._outcome.came_back.append(now - self.signalled_at)
                self._outcome.away.append(now - left_at)
                if len(self._outcome.came_back) == self._outcome.clients:
                    self.all_back.set()

        async with connect(self._url, token=token(f"user-{number}"), on_state=on_state) as client:
            self._ready += 1
            if self._ready == self._outcome.clients:
                self._all_ready.set()
            while not self._stopping:
                await self._ask(client)
                await trio.sleep(_PAUSE)

    async def _ask(self, client: Client) -> None:
        self._number += 1
        number = self._number
        while True:
            try:
                assert await client.request("keep", number) == number
            except ConnectionLostError:
                self._outcome.unanswered += 1
            else:
                self._outcome.acknowledged.add(number)
                return


async def roll(folder: Path, *, clients: int, drain_period: float, how: How) -> Outcome:
    """Start a server and its clients, then another one in its place; what came of it."""
    outcome = Outcome(clients=clients, drain_period=drain_period)
    write_application(folder)
    with _place(how) as (sock, arguments), ExitStack() as processes:

        def start(name: str, arguments: list[str]) -> Process:
            return processes.enter_context(
                started(
                    folder,
                    *arguments,
                    name=name,
                    socket=sock,
                    TRIOSERVER_SHUTDOWN_DRAIN_PERIOD=str(drain_period),
                    STORE=str(folder / "store"),
                )
            )

        old = start("old", arguments)
        load = _Load(outcome, old.url + "/ws")
        async with trio.open_nursery() as nursery:
            await nursery.start(load.run)
            port = old.url.rpartition(":")[2]
            new = start("new", [port if each == "0" else each for each in arguments])
            load.signalled_at = trio.current_time()
            old.signal(signal.SIGUSR2)
            assert await old.wait() == 0, old.log
            outcome.drained_after = trio.current_time() - load.signalled_at
            with trio.fail_after(PATIENCE):
                await load.all_back.wait()
            load.stop()
        new.signal(signal.SIGTERM)
        assert await new.wait() == 0, new.log
        for server in (old, new):
            assert "Traceback" not in server.log
    outcome.stored.update(map(int, (folder / "store").read_text().split()))
    return outcome


@contextmanager
def _place(how: How) -> Iterator[tuple[int | None, list[str]]]:
    """A socket that both servers get, or a port that both take; and what to start them with."""
    if how == "reuse_port":
        yield None, ["--port", "0", "--reuse-port"]
        return
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield listening.fileno(), ["--systemd-socket", "*"]


# ------------------------------------------------------------------------------ in words


def histogram(times: list[float], period: float, slices: int = 10) -> list[int]:
    """How many came in each slice of the period; what came after it counts for the last."""
    counts = [0] * slices
    for time in times:
        counts[min(int(time / period * slices), slices - 1)] += 1
    return counts


def describe(outcome: Outcome) -> str:
    """The outcome as Markdown."""
    counts = histogram(outcome.came_back, outcome.drain_period)
    width = outcome.drain_period / len(counts)
    lines = [
        f"{index * width:4.1f} to {(index + 1) * width:4.1f} s  {count:4d}  "
        + "#" * round(count * _BAR / max(counts))
        for index, count in enumerate(counts)
    ]
    away = sorted(outcome.away)
    return "\n".join(
        [
            f"{outcome.clients} clients, each asking again {_PAUSE * 1000:.0f} ms after an answer; "
            f"`drain_period` is {outcome.drain_period:g} s.",
            "",
            "| | |",
            "|---|---|",
            f"| requests acknowledged | {len(outcome.acknowledged)} |",
            f"| of these, lost | {len(outcome.lost)} |",
            f"| requests whose connection ended first, asked again | {outcome.unanswered} |",
            f"| clients that came back | {len(outcome.came_back)} of {outcome.clients} |",
            f"| away, median and longest | {away[len(away) // 2] * 1000:.0f} ms, "
            f"{away[-1] * 1000:.0f} ms |",
            f"| the old process ended after | {outcome.drained_after:.1f} s |",
            "",
            "When they were ready on the new process, counted from the signal:",
            "",
            "```text",
            *lines,
            "```",
            "",
        ]
    )


def write(text: str) -> None:
    """Put it into the document, in the place of what was there."""
    document = _DOCUMENT.read_text()
    pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    assert pattern.search(document), f"{_DOCUMENT.name} has no place for it"
    _DOCUMENT.write_text(pattern.sub(lambda _: _BEGIN + text + _END, document))


async def main() -> None:
    """Measure one restart with the default drain period, and write it down."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = await roll(Path(folder), clients=200, drain_period=10.0, how="socket")
    text = describe(outcome)
    print(text)
    write(text)


if __name__ == "__main__":
    trio.run(main)
