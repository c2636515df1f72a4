"""A connection cancelled at each of its awaits in turn: nothing may be left behind."""

from __future__ import annotations

from typing import Final

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import Harness, serving
from tests.support.client import Client, Ended

MOST_STEPS: Final = 400
"""Far more task steps than the conversation takes; the test fails if that is not so."""


@attrs.define(eq=False)
class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` after so many steps of tasks that run under it."""

    left: int
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    root: trio.lowlevel.Task | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.root is not None and self._is_below_root(task):
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    def _is_below_root(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self.root:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None


async def _converse(client: Client) -> None:
    """Something of everything, up to the closing handshake."""
    await client.open("/ws/1")
    await client.authenticate("alice:300")
    await client.send(type="subscribe", topics=["news"], id=1)
    await client.send(type="forever", id=2)
    await client.send(type="slow", id=3, data={"ms": 1000})
    await client.send(type="publish", topic="news", data=1, id=4)
    await client.send(type="auth", token="alice:400", id=5)
    await client.receive_until("auth_refreshed")
    await trio.sleep(35.0)  # past a heartbeat
    await client.send(type="cancel", id=2)
    await client.receive_until("end")
    await client.close()


async def _serve_cancelled(harness: Harness, instrument: CancelAtStep) -> Client:
    ours, theirs = trio.testing.memory_stream_pair()

    async def connection() -> None:
        instrument.root = trio.lowlevel.current_task()
        with instrument.scope:
            await harness.server.serve_stream(theirs)

    harness.nursery.start_soon(connection)
    return Client(ours)


async def test_a_connection_cancelled_at_any_await_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        finished = 0
        for step in range(1, MOST_STEPS):
            instrument = CancelAtStep(step)
            trio.lowlevel.add_instrument(instrument)
            try:
                client = await _serve_cancelled(harness, instrument)
                try:
                    await _converse(client)
                    finished += 1
                except (Ended, trio.BrokenResourceError):
                    assert instrument.scope.cancel_called
                await harness.assert_nothing_left()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            if instrument.left > 0:
                break
        else:
            pytest.fail("the conversation takes more steps than this test cancels at")
        assert finished >= 1
        assert step > 50


async def test_a_whole_server_cancelled_at_any_time_ends(autojump_clock: MockClock) -> None:
    for tenths in range(0, 30, 3):
        async with serving() as harness:
            for _ in range(3):
                client = await harness.connect()
                await client.send(type="auth", token="alice")
                await client.send(type="slow", id=1, data={"ms": 1000})
            await trio.sleep(tenths / 10)
            harness.nursery.cancel_scope.cancel()
        assert harness.server.statistics().open == 0
        assert not harness.server.connections
