"""The test application on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.support.app import World, make_application, wall_clock
from trioserver import Application, Config, Server, serve


@asynccontextmanager
async def running(
    config: Config | None = None, application: Application | None = None, **options: Any
) -> AsyncIterator[Server]:
    """A server of the test application, whose tokens end by its own clock, or of another."""
    own = application is None
    application = make_application(World()) if application is None else application
    if own:
        options.setdefault("clock", wall_clock)

    async def start(*, task_status: trio.TaskStatus[Server]) -> None:
        await serve(application, config or Config(port=0), task_status=task_status, **options)

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(start)
        yield server
        nursery.cancel_scope.cancel()
