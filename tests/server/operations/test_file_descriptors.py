"""A process that runs out of file descriptors: it accepts nobody for a while, and nothing ends."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import pytest
import trio

from tests.server.operations.processes import Process, started, token, write_application
from tests.support.patience import PATIENCE
from trioserver.client import Client, connect

if sys.platform != "linux":
    pytest.skip("needs prlimit(2) and /proc", allow_module_level=True)

import resource

FREE = 3
CROWD = 12
PAUSE = 0.1  # seconds, of the listener, before it tries again


def allow_few_files(process: Process) -> None:
    """Let the process open ``FREE`` more than it has open now."""
    pid = process.process.pid
    opened = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()) + 1
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + FREE, hard))


async def ask_often(client: Client) -> float:
    """Ask a hundred times; how long half of the answers took at the most, in seconds."""
    times: list[float] = []
    for number in range(100):
        begun = trio.current_time()
        assert await client.request("echo", number) == number
        times.append(trio.current_time() - begun)
    return median(times)


async def test_accepting_pauses_and_goes_on_and_nothing_ends(tmp_path: Path) -> None:
    write_application(tmp_path)
    with started(tmp_path, "--port", "0") as server:
        host, port = server.url.removeprefix("ws://").split(":")
        async with connect(server.url + "/ws", token=token(), reconnect=False) as good:
            await good.request("echo", 0)
            allow_few_files(server)
            crowd = [await trio.open_tcp_stream(host, int(port)) for _ in range(CROWD)]
            await server.wait_log("accepting_paused")
            assert await ask_often(good) < PAUSE, "whoever is connected does not wait as well"
            async with trio.open_nursery() as nursery:
                late = await nursery.start(_connect_late, server.url)
                for stream in crowd:
                    await stream.aclose()
                with trio.fail_after(PATIENCE):
                    await late.wait()
            await ask_often(good)
        assert server.log.count("accepting_paused") == 1
        assert "Too many open files" in server.log
        assert "Traceback" not in server.log
        assert server.process.poll() is None


async def _connect_late(url: str, *, task_status: trio.TaskStatus[trio.Event]) -> None:
    """Come while nobody is accepted, and wait; the event is set when it was served."""
    served = trio.Event()
    task_status.started(served)
    async with connect(url + "/ws", token=token("bob"), reconnect=False) as client:
        assert await client.request("echo", 7) == 7
    served.set()
