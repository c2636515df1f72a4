"""Runs a load in this process, against a server in this process, on real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.load.app import SECRET, make
from tests.support.patience import PATIENCE
from trioserver import Config, LimitsConfig, Server, serve
from trioserver.load.generator import Generator
from trioserver.load.pacing import clock
from trioserver.load.plan import Plan, Tokens
from trioserver.load.result import RunResult
from trioserver.load.sockets import Sockets

URL = "ws://127.0.0.1:{port}/ws/rooms/{{client}}"


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[Server]:
    """A server; what it is told is in `Config`. Without a word it lets clients ask all they can."""
    config.setdefault("limits", LimitsConfig(messages_per_second=1_000_000))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, make(), Config(port=0, **config))
        yield server
        nursery.cancel_scope.cancel()


def plan_for(port: int, **options: Any) -> Plan:
    """Short, and with tokens that the application takes."""
    defaults: dict[str, Any] = {
        "url": URL.format(port=port),
        "family": int(socket.AF_INET),
        "sockaddr": ("127.0.0.1", port),
        "tokens": Tokens(secret=SECRET),
        "clients": 20,
        "duration": 0.2,
        "ready_timeout": PATIENCE,
    }
    return Plan(**{**defaults, **options})


async def at_once(phase: str) -> float:
    """A barrier for one."""
    return clock()


async def load(port: int, *, sockets: Sockets | None = None, **options: Any) -> RunResult:
    """Run a plan to its end."""
    plan = plan_for(port, **options)
    generator = Generator(plan, sockets=sockets)
    with trio.fail_after(PATIENCE):
        await generator.run(at_once)
    return RunResult.of(plan, [generator.recorder.result(clock())], interrupted=False)
