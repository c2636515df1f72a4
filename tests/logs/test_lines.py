"""How many log lines strangers and single clients can cause, and what is said of the rest."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import Harness, serving, wall_clock
from tests.support.client import Rejected
from trioserver import (
    Application,
    Config,
    Connection,
    ConnectionEnded,
    Credentials,
    JWTAuth,
    LimitsConfig,
    LogConfig,
    Presence,
    Request,
    User,
    allow_any_user,
)
from trioserver.auth import make_secret, make_token
from trioserver.logs.context import MAX_USER
from trioserver.logs.source_limiter import SOURCES, SourceLimiter, Suppressed

SECRET = make_secret()
BOUND: dict[str, Any] = {"lines_per_source": 1, "lines_per_second": 5}  # 20 and 100 at once


def config(**limits: Any) -> Config:
    generous = {"handshakes_per_second": 100_000, "max_invalid_tokens": 100_000, **limits}
    return Config(port=0, log=LogConfig(**BOUND), limits=LimitsConfig(**generous))


def count(lines: list[Any]) -> Counter[str]:
    return Counter(line["event"] for line in lines)


# ------------------------------------------------------------------------------ the throttle


def test_a_source_has_its_rate_and_its_burst() -> None:
    throttle = SourceLimiter(2, burst=10)
    assert sum(throttle.allow("a", "x", 0.0) for _ in range(100)) == 20
    assert sum(throttle.allow("a", "x", 5.0) for _ in range(100)) == 10
    assert throttle.allow("b", "x", 5.0)
    assert throttle.collect() == [Suppressed("a", "x", 170)]
    assert throttle.collect() == []


def test_all_together_have_a_rate_that_is_used_up_only_by_what_is_kept() -> None:
    throttle = SourceLimiter(1, 3, burst=10)
    assert sum(throttle.allow("loud", "x", 0.0) for _ in range(10_000)) == 10
    assert sum(throttle.allow(f"quiet {n}", "x", 0.0) for n in range(100)) == 20


def test_what_is_remembered_is_bounded_however_many_sources_and_kinds_there_are() -> None:
    throttle = SourceLimiter(1, 1, burst=1)
    for n in range(3 * SOURCES):
        throttle.allow(f"source {n}", n, 0.0)
    assert len(throttle._buckets) <= SOURCES
    assert len(throttle._suppressed) <= 3 * SOURCES
    rows = throttle.collect()
    assert sum(row.count for row in rows) == 3 * SOURCES - 1
    named = [row for row in rows if row.source]
    assert len(named) == 20


# ------------------------------------------------------------------------------ in a server


async def refuse(harness: Harness, times: int, remote: str) -> None:
    for n in range(times):
        client = harness.connect_raw(remote=f"{remote}:{n}")
        with pytest.raises(Rejected):
            await client.open("/nothing")


async def fail(harness: Harness, times: int, remote: str) -> None:
    for n in range(times):
        client = await harness.connect(remote=f"{remote}:{n}")
        await client.send(type="auth", token="forged")
        await client.receive_end()


async def test_refused_requests_of_one_address_are_some_lines_and_a_summary(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            await refuse(harness, 300, "192.0.2.1")
            assert count(lines)["request_rejected"] == 20
            await refuse(harness, 5, "192.0.2.2")
            assert count(lines)["request_rejected"] == 25
            await trio.sleep(10)
    (summary,) = (line for line in lines if line["event"] == "log_lines_suppressed")
    assert summary["of"] == "request_rejected"
    assert (summary["remote"], summary["count"]) == ("192.0.2.1", 280)


async def test_refused_connections_of_many_addresses_have_a_bound_together(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            for n in range(200):
                await fail(harness, 1, f"192.0.2.{n}")
    kept = count(lines)["authentication_failed"] + count(lines)["connection_closed"]
    told = sum(line["count"] for line in lines if line["event"] == "log_lines_suppressed")
    assert kept < 120
    assert kept + told == 400


async def test_a_flood_costs_no_line_of_those_who_authenticate(autojump_clock: MockClock) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            for n in range(10):
                await fail(harness, 50, f"192.0.2.{n}")
            for _ in range(5):
                client = await harness.connect(remote="192.0.2.1:1")
                await client.authenticate()
                await client.close()
            await harness.assert_nothing_left()
    closed = [line for line in lines if line["event"] == "connection_closed"]
    assert sum(line.get("user") == "alice" for line in closed) == 5


async def test_failing_handlers_of_one_client_are_some_lines_and_a_summary(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            client = await harness.ready()
            for n in range(60):
                assert (await client.request("fail_inline", id=n))["code"] == "internal_error"
    assert count(lines)["handler_failed"] == 10, "half of the lines, for tracebacks are long"
    told = [line for line in lines if line["event"] == "log_lines_suppressed"]
    assert [(line["user"], line["count"]) for line in told if line["of"] == "handler_failed"] == [
        ("alice", 50)
    ]


async def test_failing_handlers_of_a_client_do_not_suppress_how_its_connection_ended(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            client = await harness.ready()
            for n in range(60):
                assert (await client.request("fail_inline", id=n))["code"] == "internal_error"
            await client.close()
            await harness.assert_nothing_left()
    (closed,) = (line for line in lines if line["event"] == "connection_closed")
    assert closed["user"] == "alice"


async def test_a_revocation_check_that_fails_is_some_lines_and_a_summary(
    autojump_clock: MockClock,
) -> None:
    def is_revoked(token_id: str) -> bool:
        raise OSError("the cache is gone")

    app = Application(auth=JWTAuth(secret=SECRET, revoked=is_revoked, clock=wall_clock))
    app.route("/ws", authorize=allow_any_user)
    token = make_token(SECRET, subject="alice", clock=wall_clock)
    with capture_logs() as lines:
        async with serving(config(), app=app) as harness:
            for n in range(50):
                client = await harness.connect("/ws", remote=f"192.0.2.1:{n}")
                await client.send(type="auth", token=token)
                await client.receive_end()
    kept = count(lines)["revocation_check_failed"]
    told = [line for line in lines if line["event"] == "log_lines_suppressed"]
    suppressed = [line["count"] for line in told if line["of"] == "revocation_check_failed"]
    assert kept <= 20
    assert kept + sum(suppressed) == 50


async def test_all_that_a_client_makes_handlers_do_wrong_is_some_lines_and_a_summary(
    autojump_clock: MockClock,
) -> None:
    user = "a" * 5000
    presence = Presence()

    async def authenticate(credentials: Credentials, request: Request) -> User:
        return User(id=user)

    app = Application(auth=authenticate)
    route = app.route("/ws", presence=presence)

    @route.on("wrong")
    def wrong(connection: Connection) -> object:
        return allow_any_user(None, {})

    @presence.on_leave
    def left(user: User, resource: Any) -> None:
        raise ConnectionEnded("somebody")

    with capture_logs() as lines:
        async with serving(config(), app=app) as harness:
            for _ in range(30):
                client = await harness.ready("/ws")
                assert (await client.request("wrong"))["code"] == "internal_error"
                await client.close()
            await harness.assert_nothing_left()
    told = [line for line in lines if line["event"] == "log_lines_suppressed"]
    assert {line["of"] for line in told} >= {
        "handler_not_awaited",
        "handler_failed",
        "presence_hook_stopped",
    }
    assert all(line["user"] == user[:MAX_USER] for line in told)


async def test_bounds_can_be_changed_while_it_runs(autojump_clock: MockClock) -> None:
    with capture_logs() as lines:
        async with serving(config()) as harness:
            await refuse(harness, 30, "192.0.2.1")
            more = Config(port=0, log=LogConfig(lines_per_source=1000))
            await harness.server.reconfigure(more)
            await refuse(harness, 100, "192.0.2.1")
    assert count(lines)["request_rejected"] == 120
