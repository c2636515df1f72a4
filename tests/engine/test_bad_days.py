"""Real servers that fail: what is guaranteed holds, nobody waits without bound, all recovers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from protocol import raw
from tests.engine.listener import Listener
from tests.engine.proxy import Proxy
from tests.support.ports import free_port
from tests.support.valkey import ValkeyServer, running
from trioserver.engine.errors import EngineConfigurationError, EngineUnavailableError
from trioserver.engine.history import History
from trioserver.engine.valkey.address import parse_engine_url
from trioserver.engine.valkey.engine import ValkeyEngine

KEPT = History(events=100, bytes=100_000, seconds=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running(tmp_path) as valkey:
        yield valkey


def engine_of(url: str, **options: Any) -> ValkeyEngine:
    return ValkeyEngine(parse_engine_url(url), history_of=lambda topic: KEPT, **options)


@asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[ValkeyEngine]:
    engine = engine_of(url, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def _run_briefly(engine: ValkeyEngine) -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)


async def refused_at_start(url: str) -> str:
    with pytest.raises(ExceptionGroup) as caught:
        await _run_briefly(engine_of(url))
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, EngineConfigurationError)
    return str(error)


async def test_publish_while_the_server_restarts_succeeds(server: ValkeyServer) -> None:
    async with started(server.url) as engine:
        listener = Listener()
        await engine.subscribe("a", listener)
        server.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.publish, "a", raw(0))
            await trio.to_thread.run_sync(server.start)
        await listener.wait_for("event")
        assert [message["type"] for message in listener.heard] == ["missed", "event"]


async def test_publish_without_a_server_fails_within_two_seconds_and_then_at_once(
    server: ValkeyServer,
) -> None:
    async with started(server.url) as engine:
        server.kill()
        await until(lambda: engine.away_since is not None)
        before = time.monotonic()
        with pytest.raises(EngineUnavailableError) as caught:
            await engine.publish("a", raw(0))
        assert not caught.value.sent
        assert time.monotonic() - before < 4
        before = time.monotonic()
        for _ in range(10):
            with pytest.raises(EngineUnavailableError):
                await engine.publish("a", raw(0))
        assert time.monotonic() - before < 1, "known to be away"


async def test_subscribers_are_told_once_that_topics_are_stale_and_live(
    server: ValkeyServer,
) -> None:
    async with started(server.url) as engine:
        listener = Listener()
        for topic in ("a", "b"):
            await engine.subscribe(topic, listener)
        server.kill()
        await listener.wait_for("topics_stale")
        await trio.to_thread.run_sync(server.start)
        await listener.wait_for("topics_live")
        kinds = [message["type"] for message in listener.heard]
        assert kinds == ["topics_stale", "missed", "missed", "topics_live"]


async def test_events_published_elsewhere_while_a_node_is_cut_off_arrive_in_order(
    server: ValkeyServer,
) -> None:
    async with trio.open_nursery() as nursery:
        proxy = Proxy(server.port)
        await nursery.start(proxy.run)
        async with (
            started(server.url) as other,
            started(f"redis://127.0.0.1:{proxy.port}") as engine,
        ):
            listener = Listener()
            await engine.subscribe("a", listener)
            proxy.is_refusing = True
            proxy.cut()
            for n in range(50):
                await other.publish("a", raw(n))
            proxy.heal()
            await listener.wait_for("event", 50)
            assert listener.data == list(range(50))
            assert all(message["type"] == "event" for message in listener.heard)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("direction", ["swallow_up", "swallow_down"])
async def test_link_that_swallows_is_noticed_and_replaced(
    server: ValkeyServer, direction: str
) -> None:
    async with trio.open_nursery() as nursery:
        proxy = Proxy(server.port)
        await nursery.start(proxy.run)
        async with started(f"redis://127.0.0.1:{proxy.port}") as engine:
            listener = Listener()
            await engine.subscribe("a", listener)
            setattr(proxy, direction, True)
            await until(lambda: engine.links_lost > 0, 10)
            proxy.heal()
            await until(lambda: engine.away_since is None)
            await engine.publish("a", raw(0))
            await listener.wait_for("event")
        nursery.cancel_scope.cancel()


async def test_frozen_server_is_noticed_within_four_seconds(server: ValkeyServer) -> None:
    async with started(server.url) as engine:
        await engine.publish("a", raw(0))
        server.freeze()
        before = time.monotonic()
        await until(lambda: engine.links_lost > 0, 10)
        assert time.monotonic() - before < 6
        server.thaw()
        await until(lambda: engine.away_since is None)
        assert (await engine.publish("a", raw(1))).offset == 2


async def test_full_server_refuses_to_publish_and_recovers(server: ValkeyServer) -> None:
    async with started(server.url) as engine:
        await engine.publish("a", raw(0))
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(EngineUnavailableError, match="OOM") as caught:
            await engine.publish("a", raw(1))
        assert not caught.value.sent
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert (await engine.publish("a", raw(1))).offset == 2


async def test_demoted_primary_is_left(server: ValkeyServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running(tmp_path / "other") as primary:
        async with started(server.url) as engine:
            await engine.publish("a", raw(0))
            server.command("REPLICAOF", "127.0.0.1", str(primary.port))
            with pytest.raises(EngineUnavailableError) as caught:
                await engine.publish("a", raw(1))
            assert not caught.value.sent
            server.command("REPLICAOF", "NO", "ONE")
            await until(lambda: engine.away_since is None)
            await engine.publish("a", raw(2))


async def test_older_snapshot_is_a_fork(server: ValkeyServer) -> None:
    async with started(server.url) as engine:
        listener = Listener()
        await engine.subscribe("a", listener)
        await engine.publish("a", raw(0))
        server.command("SAVE")
        seen = await engine.publish("a", raw(1))
        await listener.wait_for("event", 2)
        server.kill()
        await trio.to_thread.run_sync(server.start)
        await listener.wait_for("missed")
        assert listener.heard[-1]["why"] == "forked"
        assert listener.heard[-1]["offset"] == 1
        assert (await engine.publish("a", raw("again"))).offset == 2
        assert (await engine.subscribe("a", Listener(), seen)).why == "forked"


async def test_lossless_restart_goes_on_from_a_position(tmp_path: Path) -> None:
    with running(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with started(server.url) as engine:
            listener = Listener()
            await engine.subscribe("a", listener)
            seen = await engine.publish("a", raw(0))
            server.kill()
            await trio.to_thread.run_sync(server.start)
            position = await engine.publish("a", raw(1))
            assert (position.offset, position.epoch) == (2, seen.epoch)
            assert position.lineage != seen.lineage
            await listener.wait_for("event", 2)
            assert listener.heard[-1]["mark"] == position.mark
            assert (await engine.subscribe("a", Listener(), seen)).why == "ok"


async def test_history_larger_than_a_page_is_read_in_pages(server: ValkeyServer) -> None:
    big = History(events=1000, bytes=8 * 1024 * 1024, seconds=60)
    async with started(server.url) as other:
        other_engine = ValkeyEngine(parse_engine_url(server.url), history_of=lambda topic: big)
        async with trio.open_nursery() as nursery:
            await nursery.start(other_engine.run)
            seen = await other_engine.publish("a", raw(""))
            for _ in range(60):
                await other_engine.publish("a", raw("x" * 10_000))
            resumed = await other.subscribe("a", Listener(), seen)
            assert (resumed.why, len(resumed.frames)) == ("ok", 60)
            for _ in range(60):
                await other_engine.publish("a", raw("x" * 10_000))
            resumed = await other.subscribe("a", Listener(), seen)
            assert (resumed.recovered, resumed.why) == (False, "many")
            nursery.cancel_scope.cancel()


async def test_topic_that_is_new_to_a_node_has_the_newest_events_that_fit_a_page(
    server: ValkeyServer,
) -> None:
    async with started(server.url) as other, started(server.url) as engine:
        positions = [await other.publish("a", raw("x" * 500)) for _ in range(90)]
        await engine.subscribe("a", Listener())
        tail = engine.hub.topics["a"].tail
        assert tail is not None
        assert 20 < len(tail) < 40
        resumed = engine.hub.resume(engine.hub.topics["a"], positions[-20])
        assert resumed is not None, "no read is needed"
        assert (resumed.why, len(resumed.frames)) == ("ok", 19)


async def test_wrong_password_stops_the_start_and_is_not_quoted(tmp_path: Path) -> None:
    with running(tmp_path, "--requirepass", "right") as server:
        text = await refused_at_start(f"redis://:wrong-one@127.0.0.1:{server.port}")
        assert "WRONGPASS" in text
        assert "wrong-one" not in text
        assert "NOAUTH" in await refused_at_start(server.url)
        async with started(f"redis://:right@127.0.0.1:{server.port}") as engine:
            assert (await engine.publish("a", raw(0))).offset == 1


async def test_database_that_does_not_exist_stops_the_start(server: ValkeyServer) -> None:
    assert "index" in await refused_at_start(f"{server.url}/99")


async def test_redis_cluster_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with running(tmp_path, *options) as server:
        assert "is a Redis Cluster" in await refused_at_start(server.url)


async def test_tls_where_there_is_none_is_logged_with_the_likely_mistake(
    server: ValkeyServer,
) -> None:
    with capture_logs() as logs:
        async with started(f"rediss://127.0.0.1:{server.port}") as engine:
            assert engine.away_since is not None
    assert "does this port speak TLS?" in logs[0]["reason"]


async def test_server_that_is_not_there_yet_does_not_stop_the_start(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    async with started(server.url) as engine:
        assert engine.away_since is not None
        try:
            await trio.to_thread.run_sync(server.start)
            await until(lambda: engine.away_since is None)
            await engine.publish("a", raw(0))
        finally:
            server.kill()


async def test_flood_of_publish_nowait_is_bounded_and_counted(server: ValkeyServer) -> None:
    async with started(server.url) as engine:
        data = raw("x" * 100_000)
        with capture_logs() as logs:
            for _ in range(200):
                engine.publish_nowait("a", data)
        assert 0 < engine.events_dropped < 200
        assert [line["event"] for line in logs] == ["events_dropped"]
        await until(lambda: engine.outstanding == 0)
        assert (await engine.publish("a", raw(0))).offset == 200 - engine.events_dropped + 1


async def test_many_topics_are_live_again_after_a_restart(
    server: ValkeyServer,
) -> None:
    async with started(server.url) as engine:
        listener = Listener()
        async with trio.open_nursery() as nursery:
            for n in range(2_000):
                nursery.start_soon(engine.subscribe, f"t{n}", listener)
        server.kill()
        await until(lambda: engine.away_since is not None)
        await trio.to_thread.run_sync(server.start)
        before = time.monotonic()
        await until(lambda: engine.away_since is None)
        assert time.monotonic() - before < 20
        await engine.publish("t1999", raw(0))
        await listener.wait_for("event")
