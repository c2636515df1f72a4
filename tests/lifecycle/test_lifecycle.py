"""The life of a connection, in virtual time, up to READY."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import World, serving
from tests.support.client import Closed
from trioserver import AuthConfig, Config


async def test_hello_then_auth_then_ready(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.connect()
        hello = await client.receive()
        assert hello == {"type": "hello", "protocol": "trioserver.v1", "auth_timeout_ms": 10000}
        await client.send(type="auth", token="alice", id="a", client={"name": "test"})
        ready = await client.receive()
        assert ready["type"] == "ready"
        assert ready["user"] == {"id": "alice"}
        assert ready["resource"] == {"id": "1"}
        assert ready["id"] == "a"
        assert ready["expires_at"].startswith("2023-11-14T23:13:20")
        assert ready["server_time"].endswith("Z")
        assert ready["heartbeat"] == {"mode": "frame", "interval_ms": 30000, "timeout_ms": 10000}
        assert ready["limits"]["max_message_bytes"] == 1024 * 1024
        assert harness.server.statistics().ready == 1
        assert (await client.close()).code == 1000
        await harness.assert_nothing_left()
        assert harness.world.seen == ["ready", "closed"]


@pytest.mark.parametrize(
    ("token", "path", "close_code", "code", "retry"),
    [
        ("", "/ws/1", 1008, "token_missing", "never"),
        (None, "/ws/1", 1008, "token_missing", "never"),
        ("forged", "/ws/1", 1008, "token_invalid", "never"),
        ("expired", "/ws/1", 1008, "token_expired", "refresh_token"),
        ("early", "/ws/1", 1008, "token_not_yet_valid", "backoff"),
        ("revoked", "/ws/1", 1008, "token_revoked", "never"),
        ("blocked", "/ws/1", 1008, "session_blocked", "never"),
        ("alice", "/ws/2", 1008, "access_denied", "never"),
        ("alice", "/ws/404", 1008, "access_denied", "never"),
        ("broken", "/ws/1", 1011, "internal_error", "backoff"),
    ],
)
async def test_a_refusal_is_an_error_with_advice_and_then_a_close_with_the_same_reason(
    autojump_clock: MockClock, token: str | None, path: str, close_code: int, code: str, retry: str
) -> None:
    async with serving() as harness:
        client = await harness.connect(path)
        await client.receive_until("hello")
        await client.send(type="auth", token=token, id=7)
        messages, closed = await client.receive_end()
        (error,) = messages
        assert (error["type"], error["code"], error["retry"]) == ("error", code, retry)
        assert error["fatal"] is True
        assert error["id"] == 7
        assert closed == Closed(close_code, code)
        await harness.assert_nothing_left()
        assert harness.world.seen == []
        assert harness.server.statistics().rejected == {code: 1}


async def test_what_is_not_there_and_what_is_not_yours_look_the_same(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        answers = []
        for path in ("/ws/2", "/ws/no-such-thing"):
            client = await harness.connect(path)
            await client.receive_until("hello")
            await client.send(type="auth", token="alice")
            answers.append(await client.receive_end())
        assert answers[0] == answers[1]


async def test_silence_ends_at_the_deadline(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        begun = trio.current_time()
        (error,), closed = await client.receive_end()
        assert error["code"] == "auth_timeout"
        assert error["retry"] == "backoff"
        assert closed == Closed(1008, "auth_timeout")
        assert trio.current_time() - begun == pytest.approx(10.0, abs=0.01)
        await harness.assert_nothing_left()


@pytest.mark.parametrize("slow", ["verify_delay", "owner_delay"])
async def test_the_deadline_covers_the_verification_too(
    autojump_clock: MockClock, slow: str
) -> None:
    world = World()
    setattr(world, slow, 100.0)
    config = Config(port=0, auth=AuthConfig(timeout=2.0, authorization_timeout=50.0))
    async with serving(config, world=world) as harness:
        client = await harness.connect()
        begun = trio.current_time()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "auth_timeout")
        assert trio.current_time() - begun == pytest.approx(2.0, abs=0.01)
        assert world.cancelled == 1
        await harness.assert_nothing_left()


async def test_the_deadline_covers_sending_the_answer(autojump_clock: MockClock) -> None:
    config = Config(port=0, auth=AuthConfig(timeout=2.0))
    async with serving(config) as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await harness.assert_nothing_left()  # the client reads nothing more: no `ready` got out
        assert harness.world.seen == []
        assert harness.server.statistics().rejected == {"auth_timeout": 1}
        assert trio.current_time() == pytest.approx(3.0, abs=0.2)  # and a second for the close


async def test_an_authorizer_that_hangs_is_unavailable_and_no_refusal(
    autojump_clock: MockClock,
) -> None:
    async with serving(world=World(owner_delay=100.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        (error,), closed = await client.receive_end()
        assert (error["code"], error["retry"]) == ("unavailable", "backoff")
        assert closed == Closed(1013, "unavailable")
        assert trio.current_time() == pytest.approx(5.0, abs=0.01)
        await harness.assert_nothing_left()


async def test_an_authorizer_that_fails_is_unavailable_and_recovers(
    autojump_clock: MockClock,
) -> None:
    world = World(authorizer_error=OSError("the database is gone"))
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        (error,), closed = await client.receive_end()
        assert closed == Closed(1013, "unavailable")
        assert "gone" not in str(error)
        world.authorizer_error = None
        await harness.ready()


async def test_the_authorization_is_cancelled_at_once_when_the_peer_leaves(
    autojump_clock: MockClock,
) -> None:
    world = World(owner_delay=4.0)
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await trio.sleep(1.0)
        client.vanish()
        await trio.testing.wait_all_tasks_blocked()
        assert world.cancelled == 1
        assert trio.current_time() == pytest.approx(1.0, abs=0.01)
        await harness.assert_nothing_left()


async def test_the_authorization_is_cancelled_at_once_when_the_peer_closes(
    autojump_clock: MockClock,
) -> None:
    world = World(owner_delay=4.0)
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await client.close(1001)
        assert world.cancelled == 1
        assert trio.current_time() == pytest.approx(0.0, abs=0.01)
        await harness.assert_nothing_left()


async def test_an_authorizer_that_returns_anything_but_true_admits_nobody(
    autojump_clock: MockClock,
) -> None:
    world = World()

    async def truthy(user: object, resource: object) -> str:
        return "yes"

    world.owns = truthy  # type: ignore[method-assign,assignment]
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "access_denied")


async def test_a_token_that_expires_during_the_authorization_admits_nobody(
    autojump_clock: MockClock,
) -> None:
    async with serving(world=World(owner_delay=3.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice:2")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "token_expired")
        assert harness.world.seen == []
