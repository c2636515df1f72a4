"""Where it is fought: a server, those who mean well, and what is measured of both.

The server and the good clients are processes of their own; the attackers are the test's. The server
has a core to itself, everybody else shares another.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from tests.attacks.figures import Figures
from tests.attacks.good import CORE, Happened, Plan
from tests.attacks.peers import Peer, Target, get, token
from tests.attacks.server import raise_files, set_clock
from tests.server.operations.processes import Process, launched

_ROOT: Final = Path(__file__).parents[2]
_MIB: Final = 1024 * 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_SAMPLING: Final = 0.05  # seconds between two looks at the server's memory
_LONGEST: Final = 90.0  # seconds of an attack
_PATIENCE: Final = 60.0  # seconds for a recovery that takes some
_SPARE: Final = 12  # newcomers, and who looks at the metrics


class Field:
    """A running server with its good clients. ``pid`` is the server's."""

    def __init__(self, server: Process, good: subprocess.Popen[bytes], clock: Path) -> None:
        host, port = server.url.removeprefix("ws://").split(":")
        self.server = server
        self.pid = server.process.pid
        self.target: Target = (host, int(port))
        self._good = good
        self._clock = clock

    # -------------------------------------------------------------------------- the server

    def memory(self) -> float:
        """The server's resident memory, in MiB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE / _MIB

    def cpu(self) -> float:
        """Seconds of CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def files(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def set_clock(self, offset: float) -> None:
        """Have the server's clock be wrong by this many seconds."""
        set_clock(self._clock, offset)

    async def metrics(self) -> dict[str, float]:
        """Samples by name and labels, without the common prefix."""
        lines = (await get(self.target, "/metrics")).splitlines()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("trioserver_"))
        return {name.removeprefix("trioserver_"): float(value) for name, _, value in pairs}

    async def open_connections(self) -> int:
        """In whatever phase."""
        return connections(await self.metrics())

    # -------------------------------------------------------------------------- an attack

    @asynccontextmanager
    async def attack(
        self,
        name: str,
        *,
        most_memory: float,
        newcomers_may: Collection[str] = (),
        longest: float = _LONGEST,
        report: list[Figures] | None = None,
    ) -> AsyncIterator[Figures]:
        """What is inside of it is the attack; then the server has to be as it was before.

        Asserts that no good client lost an answer, that newcomers got in (or fared as they
        ``may``), and that the server's memory grew by ``most_memory`` MiB at the most. Raises
        `trio.TooSlowError` after ``longest`` seconds.
        """
        figures = Figures(name=name)
        figures.quiet = (await self._ask()).answers
        files = self.files()
        open_before = await self.open_connections()
        figures.rss_before = figures.rss_most = self.memory()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample, figures)
            with trio.fail_after(longest):
                yield figures
            ended = trio.current_time()
            await self._recover(open_before, files)
            figures.recovered = trio.current_time() - ended
            nursery.cancel_scope.cancel()
        figures.rss_after = self.memory()
        happened = await self._ask()
        figures.answers, figures.waits = happened.answers, happened.waits
        print(figures.row())
        assert not happened.lost
        assert happened.answers
        assert set(happened.newcomers) <= {"ready", *newcomers_may}, happened.newcomers
        assert figures.rss_most - figures.rss_before < most_memory
        assert self.server.process.poll() is None
        assert "crashed" not in self.server.log, "nothing raised where it should not"
        if report is not None:
            report.append(figures)

    async def _ask(self) -> Happened:
        """What happened to good clients since this was last asked."""
        assert self._good.stdin is not None
        assert self._good.stdout is not None
        self._good.stdin.write(b"\n")
        self._good.stdin.flush()
        line = await trio.to_thread.run_sync(self._good.stdout.readline)
        return msgspec.json.decode(line, type=Happened)

    async def _sample(self, figures: Figures) -> None:
        while True:
            figures.rss_most = max(figures.rss_most, self.memory())
            await trio.sleep(_SAMPLING)

    async def _recover(self, open_before: int, files: int) -> None:
        """Wait until nothing is left of an attack, and somebody new is let in."""
        with trio.fail_after(_PATIENCE):
            while True:
                try:
                    is_over = await self.open_connections() <= open_before + _SPARE
                    if is_over and self.files() <= files + _SPARE and await self._lets_in():
                        return
                except OSError:
                    pass  # it is not let in yet
                await trio.sleep(_SAMPLING)

    async def _lets_in(self) -> bool:
        with await Peer.open(self.target, "127.0.200.4") as peer:
            return await peer.get_ready(token("first after it"), self._path) == "ready"

    _path = "/ws"


def connections(metrics: dict[str, float]) -> int:
    """All that are open, WebSockets or not there yet."""
    return int(sum(value for name, value in metrics.items() if name.startswith("connections{")))


@asynccontextmanager
async def field(
    folder: Path,
    *,
    plan: Mapping[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Field]:
    """Start a server and its good clients, who do as ``plan`` says. Options are of the
    configuration, as ``limits_max_connections``."""
    raise_files()
    clock = folder / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    own = {f"TRIOSERVER_{name.upper()}": str(value) for name, value in options.items()}
    with _server(folder, clock, {**own, **(environment or {})}) as server:
        host, port = server.url.removeprefix("ws://").split(":")
        with _good(Plan(host=host, port=int(port), **(plan or {}))) as good:
            place = Field(server, good, clock)
            place._path = (plan or {}).get("path", "/ws")
            assert good.stdout is not None
            line = await trio.to_thread.run_sync(good.stdout.readline)
            assert line == b"ready\n", server.log[-2000:]
            with _on_core(CORE):
                yield place
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0, server.log[-2000:]


@contextmanager
def _server(folder: Path, clock: Path, environment: dict[str, str]) -> Iterator[Process]:
    command = [sys.executable, "-m", "tests.attacks.server", str(clock)]
    with launched(
        [*command, "serve", "tests.attacks.app:make", "--port", "0"],
        folder / "server.log",
        cwd=_ROOT,
        environment={"TRIOSERVER_SHUTDOWN_DRAIN_PERIOD": "0.2", **environment},
    ) as process:
        yield process


@contextmanager
def _good(plan: Plan) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.attacks.good", msgspec.json.encode(plan).decode()],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Leave the server alone on its own."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
