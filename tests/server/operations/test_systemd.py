"""What systemd is told, and the sockets it passes; systemd itself is played by the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.server.operations.processes import Process, as_systemd, started, token, write_application
from trioserver import Config, ListenError
from trioserver.client import connect
from trioserver.server.operations.listener_manager import ListenerManager
from trioserver.server.operations.systemd import PassedSocket, SystemdNotifier, collect_sockets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_application(tmp_path)
    return tmp_path


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """Where services tell how they are; its name is an address of a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def told(manager_socket: socket.socket) -> dict[str, str]:
    """The next thing that was said."""
    lines = manager_socket.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


# ------------------------------------------------------------------------------ telling


async def test_a_service_tells_when_it_is_ready_reloads_and_stops(
    folder: Path, manager_socket: socket.socket
) -> None:
    path = folder / "server.toml"
    path.write_text("[trioserver.limits]\nmax_connections = 5\n")
    with started(
        folder, "--port", "0", "--config", str(path), NOTIFY_SOCKET=str(folder / "notify"),
        TRIOSERVER_SHUTDOWN_DRAIN_PERIOD="0.1",
    ) as server:  # fmt: skip
        ready = await trio.to_thread.run_sync(told, manager_socket)
        assert ready == {"READY": "1", "STATUS": f"listening on {server.url}"}
        async with connect(server.url + "/ws", token=token()) as client:
            path.write_text("[trioserver.limits]\nmax_connections = 6\n[trioserver.tls]\nbad = 1\n")
            server.signal(signal.SIGHUP)
            reloading = await trio.to_thread.run_sync(told, manager_socket)
            assert reloading["RELOADING"] == "1"
            assert int(reloading["MONOTONIC_USEC"]) > 0
            assert (await trio.to_thread.run_sync(told, manager_socket))["READY"] == "1"
            assert "there is no option trioserver.tls.bad" in server.log
            path.write_text("[trioserver]\nport = 1\n[trioserver.limits]\nmax_connections = 6\n")
            server.signal(signal.SIGHUP)
            await server.wait_log('"limits.max_connections": "5 -> 6"')
            assert await client.request("echo", 1) == 1
        for _ in range(2):
            await trio.to_thread.run_sync(told, manager_socket)
        server.signal(signal.SIGTERM)
        stopping = await trio.to_thread.run_sync(told, manager_socket)
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 5_100_000
        assert await server.wait() == 0


def environment_of(**variables: str) -> dict[str, str]:
    return {"PATH": "/bin", **variables}


async def test_signs_of_life_come_at_half_of_what_is_waited(
    autojump_clock: trio.testing.MockClock, manager_socket: socket.socket, tmp_path: Path
) -> None:
    environment = environment_of(
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="10000000",
        WATCHDOG_PID=str(os.getpid()),
    )
    manager = SystemdNotifier.of(environment)
    assert environment == {"PATH": "/bin"}
    with trio.move_on_after(12):
        await manager.run()
    manager_socket.setblocking(False)
    assert [told(manager_socket) for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
    with pytest.raises(BlockingIOError):
        told(manager_socket)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_nobody_who_waits_gets_no_signs(variables: dict[str, str]) -> None:
    manager = SystemdNotifier.of(environment_of(**variables))
    assert manager.watchdog_interval is None
    with trio.fail_after(1):
        await manager.run()


def test_abstract_names_are_understood() -> None:
    name = f"trioserver-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        SystemdNotifier.of(environment_of(NOTIFY_SOCKET=f"@{name}")).ready("two\nREADY=0")
        assert listening.recv(100) == b"READY=1\nSTATUS=two READY=0"


def test_a_manager_that_has_gone_or_is_full_holds_nothing_up(tmp_path: Path) -> None:
    SystemdNotifier(str(tmp_path / "nobody")).ready("here")
    SystemdNotifier("/" + "x" * 200).ready("here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "full"))
        for _ in range(1000):
            SystemdNotifier(str(tmp_path / "full")).ready("here")


# ------------------------------------------------------------------------------ sockets


def test_sockets_are_for_the_process_that_is_named() -> None:
    environment = environment_of(LISTEN_FDS="1", LISTEN_PID="1")
    assert collect_sockets(environment) == []
    assert environment == {"PATH": "/bin"}
    assert collect_sockets(environment_of(LISTEN_FDS="x", LISTEN_PID=str(os.getpid()))) == []


_TAKING = """
import os, sys
from trioserver.server.operations.systemd import collect_sockets
taken = collect_sockets()
print([each.name for each in taken], [each.socket.get_inheritable() for each in taken])
print([each.socket.getsockname() == ("127.0.0.1", int(sys.argv[1])) for each in taken])
print([name for name in os.environ if name.startswith("LISTEN_")], collect_sockets())
"""


@pytest.mark.parametrize(
    ("names", "expected"),
    [("web:admin", ["web", "admin"]), ("web", ["web", "unknown"]), (None, ["unknown"] * 2)],
)
def test_sockets_come_with_their_names(names: str | None, expected: list[str]) -> None:
    variables = {} if names is None else {"LISTEN_FDNAMES": names}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        done = subprocess.run(
            as_systemd([fd, fd], [sys.executable, "-c", _TAKING, str(port)]),
            env={**os.environ, **variables},
            pass_fds=[fd],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"{expected} [False, False]\n[True, True]\n[] []\n"


async def test_a_listener_takes_the_sockets_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [PassedSocket(name, socket.create_server(("127.0.0.1", 0))) for name in ("a", "b")]
    ports = [each.socket.getsockname()[1] for each in passed]
    monkeypatch.setattr(
        "trioserver.server.operations.listener_manager.collect_sockets", lambda: list(passed)
    )
    listening = ListenerManager()
    await listening.open(Config(systemd_socket="b"))
    assert [address.port for address in listening.addresses] == [ports[1]]
    assert passed[0].socket.fileno() == -1, "what nobody takes would swallow connections"
    await listening.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("none", "sockets passed: none"),
        ("datagram", "use ListenStream="),
        ("other", "sockets passed: other"),
    ],
)
async def test_sockets_that_are_missing_or_will_not_do_are_told(
    monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    passed: list[PassedSocket] = []
    if kind != "none":
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        passed.append(PassedSocket("web" if kind == "datagram" else "other", datagram))
    monkeypatch.setattr(
        "trioserver.server.operations.listener_manager.collect_sockets", lambda: passed
    )
    with pytest.raises(ListenError, match=said):
        await ListenerManager().open(Config(systemd_socket="web"))


async def test_a_unix_socket_of_systemd_keeps_its_file(folder: Path) -> None:
    path = folder / "web.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with started(folder, "--systemd-socket", "*", socket=listening.fileno()) as server:
            assert server.url == f"ws+unix://{path}"
            server.signal(signal.SIGTERM)
            assert await server.wait() == 0
    assert path.exists()


# ------------------------------------------------------------------------------ the same port


async def test_two_servers_share_a_port_where_both_say_so(folder: Path) -> None:
    with started(folder, "--port", "0", "--reuse-port", name="one") as one:
        port = one.url.rpartition(":")[2]
        with started(folder, "--port", port, "--reuse-port", name="two") as two:
            assert two.url == one.url
            assert await _answers(two)
            two.signal(signal.SIGUSR2)
            assert await two.wait() == 0
            assert await _answers(one)


async def _answers(server: Process) -> bool:
    async with connect(server.url + "/ws", token=token()) as client:
        return bool(await client.request("echo", 1) == 1)
