"""Who is let in by a running server, as whom, and what those are told who are not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import Harness, World, make_application, serving
from tests.support.client import Client, Closed, Ended, Rejected
from trioserver import Config, LimitsConfig, OriginConfig, ProxyConfig

HERE = "192.0.2.1:5000"
GOOD_HANDSHAKE = (
    b"GET /ws/1 HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
THERE = "203.0.113.5:5000"


def config(**limits: Any) -> Config:
    return Config(port=0, limits=LimitsConfig(**limits))


async def become_ready(harness: Harness, remote: str, **headers: str) -> Client:
    client = await harness.connect(remote=remote, **headers)
    await client.authenticate()
    return client


async def forge(harness: Harness, remote: str, token: str = "forged") -> str:
    """The code that it is refused with."""
    client = await harness.connect(remote=remote)
    await client.receive_until("hello")
    await client.send(type="auth", token=token)
    _, closed = await client.receive_end()
    return closed.reason


async def status(harness: Harness, remote: str, **headers: str) -> tuple[int, dict[bytes, bytes]]:
    """The status and the headers that a handshake is refused with."""
    client = harness.connect_raw(remote=remote)
    with pytest.raises(Rejected) as rejected:
        await client.open("/ws/1", headers=headers)
    return rejected.value.status, client.rejected_with


# ------------------------------------------------------------------------------ silent ones


async def test_two_hundred_reconnects_at_once_from_one_address_all_get_in(
    autojump_clock: MockClock,
) -> None:
    world = World(verify_delay=0.2, owner_delay=0.3)
    async with serving(config(max_connections_per_user=1000), world=world) as harness:
        ready = []

        async def reconnect(number: int) -> None:
            ready.append(await become_ready(harness, f"192.0.2.1:{number}"))

        async with trio.open_nursery() as clients:
            for number in range(200):
                clients.start_soon(reconnect, number)
        assert len(ready) == 200
        statistics = harness.server.statistics()
        assert (statistics.ready, statistics.evicted, statistics.rejected) == (200, 0, {})


async def silent(harness: Harness, remote: str, upgraded: bool) -> Client:
    client = harness.connect_raw(remote=remote)
    if upgraded:
        await client.open("/ws/1")
    return client


@pytest.mark.parametrize("upgraded", [False, True])
async def test_silent_ones_keep_out_neither_neighbours_nor_others(
    upgraded: bool, autojump_clock: MockClock
) -> None:
    async with serving(config(max_connections_per_user=1000)) as harness:
        for second in range(5):
            for n in range(40):
                await silent(harness, f"192.0.2.1:{n}", upgraded)
            await trio.sleep(0.5)
            await become_ready(harness, "192.0.2.1:9999")
            await become_ready(harness, f"203.0.113.{second}:1")
        statistics = harness.server.statistics()
        assert statistics.ready == 10
        assert statistics.unauthenticated <= 50 + 4 * 40, "the cap, and those of the last 2 s"
        await trio.sleep(2.0)
        await become_ready(harness, "192.0.2.1:9999")
        assert harness.server.statistics().unauthenticated <= 50


async def test_a_thousand_silent_ones_from_many_addresses_keep_out_nobody(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_unauthenticated=100)) as harness:
        for n in range(1000):
            harness.connect_raw(remote=f"198.51.100.{n % 30}:{n}")
        await trio.testing.wait_all_tasks_blocked()
        assert harness.server.statistics().unauthenticated == 100
        await become_ready(harness, THERE)
        assert harness.server.statistics().evicted == 901


async def test_a_client_evicted_after_the_handshake_gets_the_reason(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_unauthenticated=1)) as harness:
        first = await harness.connect(remote=HERE)
        await first.receive_until("hello")
        await become_ready(harness, THERE)
        (error,), closed = await first.receive_end()
        assert (error["code"], error["retry"]) == ("server_busy", "backoff")
        assert closed == Closed(1013, "server_busy")


async def test_a_client_evicted_during_the_handshake_gets_its_response_first(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_unauthenticated=1)) as harness:
        first = harness.connect_raw(lockstep=True, remote=HERE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.stream.send_all, GOOD_HANDSHAKE)
            await trio.testing.wait_all_tasks_blocked()
            await become_ready(harness, THERE)
            answer = await first.stream.receive_some(1000)
        assert answer.startswith(b"HTTP/1.1 101 ")
        rest = b""
        while data := await first.stream.receive_some(1000):
            rest += data
        assert b'"server_busy"' in rest
        await trio.sleep(3.0)
        assert harness.server.statistics().open == 1


async def test_who_waits_for_a_slow_look_up_does_not_give_way_to_silent_ones(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_unauthenticated=10), world=World(owner_delay=4.0)) as harness:
        client = await harness.connect(remote=HERE)
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await trio.sleep(0.1)
        for n in range(100):
            harness.connect_raw(remote=f"192.0.2.1:{n}")
        assert (await client.receive())["type"] == "ready"


async def test_clients_with_invalid_tokens_that_never_close_take_no_slots(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_unauthenticated=5, max_invalid_tokens=1000)) as harness:
        for n in range(20):
            client = await harness.connect(remote=f"192.0.2.1:{n}")
            client.answer_close = False
            await client.send(type="auth", token="forged")
        await trio.testing.wait_all_tasks_blocked()
        assert harness.server.statistics().unauthenticated == 0
        await become_ready(harness, HERE)


async def test_where_ready_ones_fill_the_server_newcomers_are_told_however_many_are_silent(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_connections=1)) as harness:
        await become_ready(harness, HERE)
        for crowd in (0, 100):
            for n in range(crowd):
                harness.connect_raw(remote=f"198.51.100.1:{n}")
            await trio.testing.wait_all_tasks_blocked()
            client = await harness.connect(remote=THERE)
            (error,), closed = await client.receive_end()
            assert (error["code"], closed) == ("server_busy", Closed(1013, "server_busy"))
        statistics = harness.server.statistics()
        assert statistics.ready == 1
        assert statistics.open <= 1 + 64


async def test_of_those_that_are_verified_at_once_no_more_get_ready_than_there_may_be(
    autojump_clock: MockClock,
) -> None:
    world = World(owner_delay=1.0)
    async with serving(
        config(max_connections=5, max_connections_per_user=1000), world=world
    ) as harness:
        codes: list[str] = []

        async def come() -> None:
            client = await harness.connect()
            await client.receive_until("hello")
            await client.send(type="auth", token="alice")
            message = await client.receive()
            codes.append(str(message.get("code", message["type"])))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(come)
        assert sorted(codes) == ["ready"] * 5 + ["server_busy"] * 3


@pytest.mark.parametrize("upgraded", [False, True])
async def test_silent_ones_at_the_cap_of_all_connections_keep_nobody_out(
    upgraded: bool, autojump_clock: MockClock
) -> None:
    """With defaults, `limits.max_connections` may be met before `limits.max_unauthenticated` is."""
    async with serving(config(max_connections=60, max_connections_per_user=1000)) as harness:
        for second in range(5):
            for n in range(200):
                await silent(harness, f"198.51.100.{n % 8}:{n}", upgraded)
            await become_ready(harness, f"203.0.113.{second}:1")
        statistics = harness.server.statistics()
        assert statistics.ready == 5
        assert statistics.open <= 60 + 64
        assert "server_busy" not in statistics.rejected or upgraded


async def test_who_fails_and_does_not_close_keeps_nobody_out(autojump_clock: MockClock) -> None:
    limits = {"max_connections": 20, "max_invalid_tokens": 100_000, "handshakes_per_second": 1000}
    async with serving(config(**limits)) as harness:
        for n in range(200):
            client = await harness.connect(remote=f"198.51.100.{n % 8}:{n}")
            client.answer_close = False
            await client.send(type="auth", token="forged")
            await trio.testing.wait_all_tasks_blocked()
        await become_ready(harness, THERE)
        assert harness.server.statistics().open <= 20 + 64


# ------------------------------------------------------------------------------ rates


async def test_too_many_handshakes_of_an_address_are_told_when_to_come_back(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(handshakes_per_second=1)) as harness:
        for _ in range(10):
            client = await harness.connect(remote=HERE)
            client.vanish()
        code, headers = await status(harness, "192.0.2.1:6000")
        assert (code, headers[b"retry-after"]) == (429, b"1")
        await become_ready(harness, THERE)
        await trio.sleep(1.0)
        await become_ready(harness, HERE)
        assert harness.server.statistics().rejected == {"handshake_rate": 1}


async def test_ipv6_counts_by_its_network_and_mapped_ipv4_as_ipv4(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(handshakes_per_second=1)) as harness:
        for n in range(10):
            (await harness.connect(remote=f"[2001:db8::{n:x}]:1")).vanish()
            (await harness.connect(remote="192.0.2.1:1")).vanish()
        assert (await status(harness, "[2001:db8::ffff:0:1]:1"))[0] == 429
        assert (await status(harness, "[::ffff:192.0.2.1]:1"))[0] == 429
        await become_ready(harness, "[2001:db8:0:1::1]:1")


async def test_bytes_beyond_the_rate_are_refused_then_closed(autojump_clock: MockClock) -> None:
    limits = {"bytes_per_second": 1024, "max_message_bytes": 2048}
    async with serving(config(**limits)) as harness:
        client = await harness.connect()
        ready = await client.authenticate()
        assert ready["limits"]["bytes_per_second"] == 1024
        assert (await client.request("echo", {"text": "x" * 1500}))["type"] == "ack"
        refused = await client.request("echo", {"text": "x" * 1500}, id=2)
        assert (refused["code"], refused["id"], refused["fatal"]) == ("rate_limited", 2, False)
        assert 900 < refused["retry_after_ms"] < 1200
        await trio.sleep(refused["retry_after_ms"] / 1000)
        assert (await client.request("echo", {"text": "x" * 1500}))["type"] == "ack"
        for _ in range(3):
            await client.send(type="echo", data={"text": "x" * 1500})
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "rate_limited")


async def test_one_message_of_the_largest_size_always_fits(autojump_clock: MockClock) -> None:
    async with serving(config(bytes_per_second=1024, max_message_bytes=100_000)) as harness:
        client = await harness.ready()
        assert (await client.request("echo", {"text": "x" * 99_900}))["type"] == "ack"


# ------------------------------------------------------------------------------ users


async def test_beyond_the_connections_of_a_user_the_oldest_ends_and_stays_away(
    autojump_clock: MockClock,
) -> None:
    async with serving(config(max_connections_per_user=2)) as harness:
        first, second, third = [await harness.ready() for _ in range(3)]
        await harness.ready(path="/ws/2", token="bob")
        (error,), closed = await first.receive_end()
        assert (error["code"], error["retry"]) == ("superseded", "never")
        assert closed == Closed(4001, "superseded")
        for client in (second, third):
            assert (await client.request("note"))["type"] == "ack"
        await second.close()
        await harness.ready()
        assert (await third.request("note"))["type"] == "ack"
        assert harness.server.statistics().ready == 3


async def test_the_connections_of_a_user_leave_nothing_behind(autojump_clock: MockClock) -> None:
    async with serving(config(max_connections_per_user=1)) as harness:
        for _ in range(3):
            client = await harness.ready()
        await client.close()
        await harness.assert_nothing_left()
        assert harness.server._context.registry._by_user == {}


# ------------------------------------------------------------------------------ forged tokens


async def test_invalid_tokens_ban_an_address_for_a_time(autojump_clock: MockClock) -> None:
    async with serving(config(max_invalid_tokens=3, ban_duration=15.0)) as harness:
        with capture_logs() as lines:
            for _ in range(3):
                assert await forge(harness, HERE) == "token_invalid"
            code, headers = await status(harness, "192.0.2.1:7777")
        assert (code, headers[b"retry-after"]) == (429, b"15")
        blocked = [line for line in lines if line["event"] == "address_banned"]
        assert [(line["remote"], line["seconds"]) for line in blocked] == [("192.0.2.1", 15.0)]
        await become_ready(harness, THERE)
        statistics = harness.server.statistics()
        assert (statistics.address_bans, statistics.banned_addresses) == (1, 1)
        await trio.sleep(15.0)
        for _ in range(20):
            assert await forge(harness, HERE) == "token_invalid", "pardoned"
        await become_ready(harness, HERE)
        assert harness.server.statistics().banned_addresses == 0


async def test_who_goes_on_while_blocked_is_dropped_unheard(autojump_clock: MockClock) -> None:
    async with serving(config(max_invalid_tokens=1)) as harness:
        await forge(harness, HERE)
        answers = []
        for _ in range(20):
            try:
                await harness.connect(remote=HERE)
            except Rejected as rejected:
                answers.append(rejected.status)
            except Ended:
                answers.append(0)
        assert answers == [429] * 10 + [0] * 10
        assert harness.server.statistics().rejected["address_banned"] == 20


@pytest.mark.parametrize(
    "token", ["expired", "early", "revoked", "blocked", "broken", "", "alice:0"]
)
async def test_no_other_failure_counts_towards_a_block(
    token: str, autojump_clock: MockClock
) -> None:
    async with serving(config(max_invalid_tokens=1)) as harness:
        for _ in range(3):
            assert await forge(harness, HERE, token) != "token_invalid"
        assert harness.server.statistics().address_bans == 0
        await become_ready(harness, HERE)


async def test_neither_an_unreachable_database_nor_a_full_server_counts(
    autojump_clock: MockClock,
) -> None:
    world = World(authorizer_error=OSError("gone"))
    async with serving(config(max_invalid_tokens=1, max_connections=1), world=world) as harness:
        assert await forge(harness, HERE, "alice") == "unavailable"
        await trio.sleep(0.1)
        world.authorizer_error = None
        await become_ready(harness, HERE)
        client = await harness.connect(remote=HERE)
        _, closed = await client.receive_end()
        assert closed.reason == "server_busy"
        assert harness.server.statistics().address_bans == 0


async def test_a_refresh_with_an_invalid_token_counts_too(autojump_clock: MockClock) -> None:
    async with serving(config(max_invalid_tokens=1)) as harness:
        client = await become_ready(harness, HERE)
        await client.send(type="auth", token="forged")
        await client.receive_end()
        assert harness.server.statistics().address_bans == 1


async def test_users_behind_the_same_address_keep_it_open(autojump_clock: MockClock) -> None:
    async with serving(config(max_invalid_tokens=3)) as harness:
        for _ in range(5):
            await forge(harness, HERE)
            await forge(harness, HERE)
            await become_ready(harness, HERE)
        assert harness.server.statistics().address_bans == 0


# ------------------------------------------------------------------------------ proxies


def behind_proxy(header: str = "x-forwarded-for", **limits: Any) -> Config:
    return Config(
        port=0,
        limits=LimitsConfig(**limits),
        proxy=ProxyConfig(trusted=["10.0.0.0/8"], header=header),  # type: ignore[arg-type]
    )


async def seen(harness: Harness, remote: str, **headers: str) -> str:
    """The address that the application sees."""
    client = await become_ready(harness, remote, **headers)
    (address,) = (connection.request.remote for connection in harness.server.connections)
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    return address


@pytest.mark.parametrize(
    ("header", "remote", "headers", "address"),
    [
        ("x-forwarded-for", "10.0.0.1:1", {"x_forwarded_for": "6.6.6.6, 192.0.2.1"}, "192.0.2.1"),
        ("x-forwarded-for", "192.0.2.9:1", {"x_forwarded_for": "192.0.2.1"}, "192.0.2.9:1"),
        ("x-forwarded-for", "10.0.0.1:1", {"forwarded": "for=192.0.2.1"}, "10.0.0.1:1"),
        ("forwarded", "10.0.0.1:1", {"forwarded": 'for="[2001:db8::1]"'}, "2001:db8::1"),
        ("forwarded", "10.0.0.1:1", {"x_forwarded_for": "192.0.2.1"}, "10.0.0.1:1"),
        ("none", "10.0.0.1:1", {"x_forwarded_for": "192.0.2.1"}, "10.0.0.1:1"),
        ("x-forwarded-for", "[::ffff:10.0.0.1]:1", {"x_forwarded_for": "1.2.3.4"}, "1.2.3.4"),
    ],
)
async def test_only_a_trusted_proxy_is_believed_and_only_in_the_header_that_it_sets(
    header: str, remote: str, headers: dict[str, str], address: str, autojump_clock: MockClock
) -> None:
    async with serving(behind_proxy(header)) as harness:
        assert await seen(harness, remote, **headers) == address


async def test_limits_and_blocks_are_for_who_is_behind_the_proxy(
    autojump_clock: MockClock,
) -> None:
    async with serving(behind_proxy(max_invalid_tokens=1, handshakes_per_second=1)) as harness:
        client = await harness.connect(remote="10.0.0.1:1", x_forwarded_for="192.0.2.1")
        await client.send(type="auth", token="forged")
        await client.receive_end()
        for _ in range(15):
            code, _ = await status(harness, "10.0.0.1:1", x_forwarded_for="192.0.2.1:44")
            assert code == 429
        with capture_logs() as lines:
            await status(harness, "10.0.0.1:1", x_forwarded_for="192.0.2.1")
        assert lines[0]["remote"] == "192.0.2.1"
        for n in range(30):
            await become_ready(harness, "10.0.0.1:1", x_forwarded_for=f"203.0.113.{n}")


async def test_silent_ones_behind_a_proxy_are_counted_by_their_own_address(
    autojump_clock: MockClock,
) -> None:
    limits: dict[str, Any] = {
        "max_unauthenticated": 6,
        "max_unauthenticated_per_address": 2,
        "unauthenticated_grace": 0,
    }
    async with serving(behind_proxy(**limits)) as harness:
        for _ in range(10):
            await harness.connect(remote="10.0.0.1:1", x_forwarded_for="192.0.2.1")
        statistics = harness.server.statistics()
        assert (statistics.unauthenticated, statistics.evicted) == (2, 8)


async def test_an_operator_who_forgot_to_trust_a_proxy_is_told_once(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        with capture_logs() as lines:
            for _ in range(3):
                await seen(harness, "127.0.0.1:1", x_forwarded_for="192.0.2.1")
        warned = [line for line in lines if line["event"] == "proxy_not_trusted"]
        assert len(warned) == 1
        assert "proxy.trusted" in warned[0]["hint"]


# ------------------------------------------------------------------------------ origins


async def test_a_page_of_another_origin_is_refused_before_the_handshake_and_logged(
    autojump_clock: MockClock,
) -> None:
    allowed = OriginConfig(allow=("http://localhost:5173",))
    async with serving(Config(port=0, origins=allowed)) as harness:
        await become_ready(harness, HERE, origin="http://localhost:5173")
        await become_ready(harness, HERE)
        with capture_logs() as lines:
            assert (await status(harness, HERE, origin="http://127.0.0.1:5173"))[0] == 403
        (line,) = lines
        assert line["event"] == "websocket_rejected_invalid_origin"
        assert line["origin"] == "http://127.0.0.1:5173"
        assert line["allowed"] == ["http://localhost:5173"]
        assert "different origins" in line["hint"]
        assert (line["remote"], line["path"]) == (HERE, "/ws/1")
        assert harness.server.statistics().rejected == {"origin": 1}


async def test_by_default_only_pages_of_the_same_host_may_connect(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        await become_ready(harness, HERE, origin="http://server")
        assert (await status(harness, HERE, origin="http://evil.test"))[0] == 403
        assert (await status(harness, HERE, origin="null"))[0] == 403


async def test_what_a_refused_page_reads_says_nothing_of_the_list(
    autojump_clock: MockClock,
) -> None:
    allowed = OriginConfig(allow=("https://internal.test",))
    async with serving(Config(port=0, origins=allowed)) as harness:
        with pytest.raises(Rejected) as rejected:
            await harness.connect(origin="https://evil.test")
        assert b"internal" not in rejected.value.body


async def test_a_route_may_have_origins_of_its_own(autojump_clock: MockClock) -> None:
    allowed = OriginConfig(allow=("https://a.test",))
    async with serving(Config(port=0, origins=allowed), origins=["https://*.b.test"]) as harness:
        await become_ready(harness, HERE, origin="https://x.b.test")
        assert (await status(harness, HERE, origin="https://a.test"))[0] == 403


def test_a_wrong_origin_of_a_route_or_of_the_configuration_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="leave out the slash"):
        make_application(World(), origins=["https://a.test/"])
    with pytest.raises(ValueError, match=r"allow: 'a\.test' is not an origin"):
        OriginConfig(allow=("a.test",))
    with pytest.raises(ValueError, match="trusted: 'localhost' is not a network"):
        ProxyConfig(trusted=("localhost",))
    with pytest.raises(ValueError, match="header is 'via'"):
        ProxyConfig(header="via")
    with pytest.raises(ValueError, match=r"proxy_protocol is set without proxy\.trusted"):
        Config(proxy_protocol=True)
