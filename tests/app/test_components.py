"""Who takes part in a server's life says so; a process stays its program's unless it is given."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.support.app import World
from tests.support.running import running
from trioserver import Application, Component, Config, User, serve
from trioserver.http.health import collect


class Rules:
    """An embedder's own class. Its methods are its own, whatever they are called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def __call__(self, user: User, resource: Mapping[str, str]) -> bool:
        return True

    def run(self, query: str = "select 1") -> str:
        self.called.append("run")
        return query

    def reload(self) -> None:
        self.called.append("reload")

    def check_addresses(self) -> None:
        self.called.append("check_addresses")

    def check_health(self) -> None:
        self.called.append("check_health")


async def test_the_methods_of_an_object_that_is_no_component_are_never_called() -> None:
    rules = Rules()
    app = Application(auth=World().authenticate)
    app.route("/ws/{id}", authorize=rules)
    with capture_logs() as lines:
        async with running(Config(port=0), app) as server:
            assert await server.reload()
    assert rules.called == []
    assert collect(app) == {}
    assert "not_a_component" not in [line["event"] for line in lines]


async def test_whatever_looks_like_a_component_and_is_none_is_named() -> None:
    class Forgotten(World):
        async def __call__(self, credentials: Any, request: Any) -> Any:
            return None

        async def run(self, *, task_status: Any) -> None:
            raise AssertionError

    app = Application(auth=Forgotten())
    app.route("/ws")
    with capture_logs() as lines:
        async with running(Config(port=0), app):
            pass
    (line,) = [line for line in lines if line["event"] == "not_a_component"]
    assert "Forgotten" in line["part"]


class Watched(Component):
    """A component of each kind: an authenticator, and an authorizer."""

    def __init__(self) -> None:
        self.called: list[str] = []

    async def __call__(self, *_: Any) -> Any:
        return True

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.called.append("run")
        task_status.started()

    def reload(self) -> Sequence[str]:
        self.called.append("reload")
        return ["it"]

    def check_addresses(self, addresses: Sequence[str]) -> None:
        self.called.append("check_addresses")

    async def check_health(self) -> None:
        self.called.append("check_health")


async def test_a_component_is_called_once_however_many_have_it() -> None:
    shared, only_http = Watched(), Watched()
    app = Application(auth=shared)
    app.route("/a/{id}", authorize=shared)
    app.route("/b/{id}", authorize=shared)
    app.include(Application(auth=only_http))  # for its pages: no route has it
    async with running(Config(port=0), app) as server:
        assert await server.reload()
    for check in collect(app).values():
        await check()
    for part in (shared, only_http):
        assert sorted(part.called) == ["check_addresses", "check_health", "reload", "run"]


async def test_a_component_that_overrides_nothing_does_nothing() -> None:
    class Plain(Component):
        async def __call__(self, user: User, resource: Mapping[str, str]) -> bool:
            return True

    app = Application(auth=World().authenticate)
    app.route("/ws/{id}", authorize=Plain())
    with capture_logs() as lines:
        async with running(Config(port=0), app) as server:
            assert await server.reload()
    assert collect(app) == {}
    assert "keys_reloaded" not in [line["event"] for line in lines]


async def test_a_component_as_it_is_starts_refuses_and_reports_nothing() -> None:
    plain = Component()
    async with trio.open_nursery() as nursery:
        await nursery.start(plain.run)
    plain.check_addresses(["0.0.0.0:80"])
    assert plain.reload() == ()
    await plain.check_health()


# ------------------------------------------------------------------------------ the process


@pytest.mark.parametrize("how", ["start", "start_soon"])
async def test_an_embedded_server_leaves_signals_and_garbage_to_the_program(how: str) -> None:
    def state() -> tuple[Any, ...]:
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return (*signals, gc.get_threshold(), gc.get_freeze_count())

    before = state()
    app = Application(auth=World().authenticate)
    app.route("/ws")
    async with trio.open_nursery() as nursery:
        if how == "start":
            await nursery.start(serve, app, Config(port=0))
        else:
            nursery.start_soon(serve, app, Config(port=0))
        await trio.sleep(0.2)
        assert state() == before
        nursery.cancel_scope.cancel()
    assert state() == before


async def test_signals_are_handled_by_an_embedded_server_that_is_asked_to() -> None:
    app = Application(auth=World().authenticate)
    app.route("/ws")
    before = signal.getsignal(signal.SIGTERM), gc.get_threshold()
    async with running(Config(port=0), app, handle_signals=True) as server:
        assert signal.getsignal(signal.SIGTERM) != before[0]
        assert gc.get_threshold() == before[1]
        signal.raise_signal(signal.SIGTERM)
        with trio.fail_after(10):
            await server.drain()
    assert signal.getsignal(signal.SIGTERM) == before[0]


PROGRAM = """
    import gc, os, signal, sys
    import trio
    from trioserver import Application, Config, Server, run

    async def nobody(credentials, request): ...

    async def report():
        await trio.sleep(0.1)
        print(gc.get_freeze_count() > 0, gc.get_threshold()[2] > 1_000_000, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    def started(server: Server):
        print("listening", bool(server.addresses), flush=True)
        trio.lowlevel.spawn_system_task(report)

    app = Application(auth=nobody)
    app.route("/ws")
    before = gc.get_threshold()
    run(app, Config(port=0), on_start=started)
    print("drained", gc.get_threshold() == before, gc.get_freeze_count())
"""


def test_run_is_a_whole_program(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("20")]
    assert lines == ["listening True", "True True", "drained True 0"]


def test_run_raises_what_stops_the_start_as_it_is() -> None:
    from trioserver import run

    class Careful(Component):
        async def __call__(self, credentials: Any, request: Any) -> Any: ...

        def check_addresses(self, addresses: Sequence[str]) -> None:
            raise ValueError("not here")

    app = Application(auth=Careful())
    with pytest.raises(ValueError, match="not here"):
        run(app, Config(port=0))
