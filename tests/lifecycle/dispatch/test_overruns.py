"""A handler that overruns its time costs the one behind it nothing, however it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.app import World, serving
from trioserver import Application, Config, Connection, HandlerConfig

CONFIG = Config(port=0, handlers=HandlerConfig(timeout=1.0))


async def works_on(connection: Connection) -> str:
    """As in a thread, which nothing can cancel."""
    with trio.CancelScope(shield=True):
        await trio.sleep(2.0)
    return "done"


async def works_on_and_is_cancelled_then(connection: Connection) -> str:
    await works_on(connection)
    await trio.lowlevel.checkpoint()
    return "never"


async def fails_when_it_is_cancelled(connection: Connection) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise LookupError("its clean-up is broken")


async def is_cancelled(connection: Connection) -> None:
    await trio.sleep_forever()


DONE = {"type": "ack", "data": "done"}
TOO_LATE = {"type": "error", "code": "unavailable"}
FAILED = {"type": "error", "code": "internal_error"}


@pytest.mark.parametrize(
    ("slow", "expected"),
    [
        (works_on, DONE),
        (works_on_and_is_cancelled_then, TOO_LATE),
        (fails_when_it_is_cancelled, FAILED),
        (is_cancelled, TOO_LATE),
    ],
)
async def test_whoever_is_behind_a_handler_that_overruns_has_all_of_its_own_time(
    slow: Callable[[Connection], Awaitable[Any]],
    expected: dict[str, Any],
    autojump_clock: MockClock,
) -> None:
    app = Application(auth=World().authenticate)
    route = app.route("/ws/1")
    route.on("slow")(slow)

    @route.on("innocent")
    async def innocent(connection: Connection) -> str:
        await trio.sleep(0.9)
        return "innocent"

    async with serving(CONFIG, app=app) as harness:
        client = await harness.ready()
        for round in range(3):
            await client.send(type="slow", id=2 * round)
            for id in range(2):
                await client.send(type="innocent", id=f"{round}-{id}")
            answer = await client.receive()
            assert answer | expected == answer
            for id in range(2):
                answer = await client.receive()
                assert answer == {"type": "ack", "id": f"{round}-{id}", "data": "innocent"}


async def test_a_handler_that_overran_does_not_cancel_the_loop_while_it_waits_for_messages(
    autojump_clock: MockClock,
) -> None:
    app = Application(auth=World().authenticate)
    route = app.route("/ws/1")
    route.on("slow")(works_on)
    async with serving(CONFIG, app=app) as harness:
        client = await harness.ready()
        for id in range(3):
            await client.send(type="slow", id=id)
            assert await client.receive() == {"type": "ack", "id": id, "data": "done"}
            await trio.sleep(5.0)
