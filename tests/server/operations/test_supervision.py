"""Background work that fails is said and goes on; it ends neither the server nor itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import World, make_application
from tests.support.client import Client
from trioserver import Application, Component, Config, User, serve
from trioserver.server.operations.supervision import supervise


class Work:
    """Fails ``times`` times after it has started, then runs on. ``began`` are its beginnings."""

    def __init__(self, times: int, error: Callable[[], Exception] = RuntimeError) -> None:
        self.times = times
        self.error = error
        self.began: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await trio.lowlevel.checkpoint()
        self.began.append(trio.current_time())
        task_status.started()
        if len(self.began) <= self.times:
            raise self.error()
        await trio.sleep_forever()

    async def plain(self) -> None:
        await self.run()


async def test_work_that_fails_is_begun_again_after_growing_pauses(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(12)
    with capture_logs() as logs:
        await nursery.start(supervise, work.run)
        await trio.sleep(300)
    pauses = [after - before for before, after in zip(work.began, work.began[1:], strict=False)]
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
    assert pauses == pytest.approx(expected)
    assert [line["task"] for line in logs] == ["Work.run"] * 12
    nursery.cancel_scope.cancel()


async def test_work_that_takes_no_status_has_started_at_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    work = Work(1)
    await nursery.start(supervise, work.plain)
    await trio.sleep(1)
    assert len(work.began) == 2
    nursery.cancel_scope.cancel()


async def test_a_start_that_fails_is_raised() -> None:
    async def fail(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("a newer version has made these tables")

    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            await nursery.start(supervise, fail)


async def test_work_that_returns_is_over() -> None:
    with trio.fail_after(1):
        await supervise(trio.lowlevel.checkpoint)


async def test_the_line_about_a_failure_holds_no_text_of_it(autojump_clock: MockClock) -> None:
    def secret() -> Exception:
        return ExceptionGroup("", [RuntimeError("hush"), KeyError("hush")])

    with capture_logs() as logs, trio.move_on_after(0.01):
        await supervise(Work(1, secret).run)
    (line,) = logs
    assert line["error"] == "RuntimeError; KeyError"
    assert "hush" not in str(line)


class Keys(Component):
    """An authenticator of an embedder's own, with background work that fails."""

    def __init__(self, work: Work) -> None:
        self.work = work

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.work.run(task_status=task_status)

    async def __call__(self, credentials: Any, request: Any) -> User:
        return User(id="alice")


async def test_a_server_whose_authenticators_work_fails_goes_on(autojump_clock: MockClock) -> None:
    work = Work(3)
    app = Application(auth=Keys(work))
    app.include(make_application(World()))

    @app.route("/mine").on("echo")
    def echo(connection: Any, data: dict[str, str]) -> dict[str, str]:
        return data

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, Config(port=0))
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve_stream, theirs)
            client = Client(ours)
            await client.open("/mine")
            await client.authenticate("x")
            await trio.sleep(5)
            assert (await client.request("echo", {"a": "b"}))["data"] == {"a": "b"}
            nursery.cancel_scope.cancel()
    assert len(work.began) == 4
    failures = [line for line in logs if line["event"] == "background_task_failed"]
    assert len(failures) == 3
