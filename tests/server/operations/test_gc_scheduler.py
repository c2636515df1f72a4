"""What a connection leaves to be freed, and when the rest is looked for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.client import Client
from tests.support.patience import PATIENCE
from tests.support.running import running
from trioserver import Connection, Observer, Server
from trioserver.server.operations.gc_scheduler import SHARE, GCPolicy, run_gc_scheduler


class Ended(Observer):
    """Keeps a weak reference to each connection that has ended."""

    def __init__(self) -> None:
        self.connections: list[weakref.ref[Connection]] = []

    def on_closed(self, connection: Connection, *_: Any) -> None:
        self.connections.append(weakref.ref(connection))


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def say_nothing(client: Client, server: Server) -> None:
    await client.receive_until("hello")


async def ask(client: Client, server: Server) -> None:
    await client.authenticate()
    await client.request("echo", {"text": "x"})


async def close(client: Client, server: Server) -> None:
    await ask(client, server)
    await client.close()


async def be_disconnected(client: Client, server: Server) -> None:
    await ask(client, server)
    server.disconnect(user="alice")
    await client.receive_end()


async def forge(client: Client, server: Server) -> None:
    await client.receive_until("hello")
    await client.send(type="auth", token="forged")
    await client.receive_end()


async def send_nonsense(client: Client, server: Server) -> None:
    await client.authenticate()
    await client.send_bytes(b"\xff" * 100)
    await client.receive_end()


@pytest.mark.parametrize("live", [say_nothing, ask, close, be_disconnected, forge, send_nonsense])
async def test_a_connection_is_freed_as_it_ends_and_not_by_a_search_for_cycles(
    live: Callable[[Client, Server], Awaitable[None]], no_collection: None
) -> None:
    ended = Ended()
    async with running(observers=[ended]) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port or 0)
        client = Client(stream)
        await client.open("/ws/1")
        await live(client, server)
        await trio.aclose_forcefully(stream)
        with trio.fail_after(PATIENCE):
            while server.statistics().open:  # noqa: ASYNC110 -- there is no event for it
                await trio.sleep(0.001)
    (connection,) = ended.connections
    assert connection() is None


def test_a_search_is_due_when_a_quarter_has_come_to_it() -> None:
    policy = GCPolicy(1_000_000)
    assert not policy.should_collect(1_250_000, 0.0)
    assert policy.should_collect(1_250_001, 0.0)
    policy.collected(2_000_000, 0.0, 0.0)
    assert not policy.should_collect(2_500_000, 0.0)


def test_a_small_process_is_not_searched_for_little() -> None:
    assert not GCPolicy(1000).should_collect(100_000, 0.0)


def test_searches_take_no_more_than_their_share_of_the_time() -> None:
    policy = GCPolicy(0)
    policy.collected(0, 10.0, 0.3)
    assert not policy.should_collect(10_000_000, 10.0 + 0.29 / SHARE)
    assert policy.should_collect(10_000_000, 10.0 + 0.3 / SHARE)


async def test_python_does_no_full_search_itself_meanwhile_and_is_left_as_it_was(
    autojump_clock: MockClock,
) -> None:
    before, searches = gc.get_threshold(), 0

    def collect() -> None:
        nonlocal searches
        searches += 1
        ballast.clear()

    ballast: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_gc_scheduler(collect=collect))
        await trio.sleep(5)
        assert searches == 0
        assert gc.get_threshold()[2] > 1_000_000
        assert gc.get_freeze_count() > 0
        ballast += [object() for _ in range(2_000_000)]
        await trio.sleep(5)
        assert searches == 1
        nursery.cancel_scope.cancel()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
