"""Coming back: when, how often, and with what; and when not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from unittest.mock import ANY

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from protocol import ERRORS, close_code_of, codec
from protocol.messages import Error, Goaway
from tests.client.playground import (
    HELLO,
    URL,
    Place,
    Script,
    collect,
    greet,
    playing,
    scripted,
    seeded,
)
from trioserver import Config, ShutdownConfig
from trioserver.client import (
    Backoff,
    CloseReason,
    ConnectionLostError,
    ConnectRejectedError,
    ConnectTimeoutError,
    State,
    connect,
)
from trioserver.client.backoff import ReconnectPolicy

# ------------------------------------------------------------------------------ how long


def test_pauses_double_up_to_the_cap_with_full_jitter() -> None:
    longest = [max(seeded().delay(n) for _ in range(1)) for n in range(10)]
    backoff = seeded()
    for number, top in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30, 30]):
        delays = [backoff.delay(number) for _ in range(1000)]
        assert max(delays) <= top
        assert max(delays) > 0.99 * top
        assert min(delays) < 0.01 * top
    assert longest == [seeded().delay(n) for n in range(10)]  # the same seed, the same pauses


def test_a_connection_has_to_hold_before_the_pauses_begin_anew() -> None:
    def pause(ready_for: float | None) -> float:
        seconds = policy.pause(CloseReason.local("gone"), ready_for=ready_for, reconnect_in=None)
        assert seconds is not None
        return seconds

    class Longest:
        def uniform(self, low: float, high: float) -> float:
            return high

    backoff = Backoff(random=Longest())  # type: ignore[arg-type]
    policy = ReconnectPolicy(backoff=backoff, reconnect=True, max_attempts=None, can_refresh=False)
    assert [pause(None), pause(1.0), pause(1.0), pause(30.0), pause(None)] == [0.5, 1, 2, 0.5, 1]


def test_an_expired_token_is_replaced_at_once_unless_the_last_one_had_hardly_lived() -> None:
    def pause(ready_for: float | None) -> float | None:
        return policy.pause(expired, ready_for=ready_for, reconnect_in=None)

    expired = CloseReason.from_close(1008, "token_expired")
    policy = ReconnectPolicy(backoff=seeded(), reconnect=True, max_attempts=None, can_refresh=True)
    assert [pause(30.0), pause(30.0), pause(None), pause(3600.0)] == [0.0, 0.0, ANY, 0.0]
    assert pause(29.0) != 0.0


@pytest.mark.parametrize("code", [row.name for row in ERRORS.values() if row.close_code])
def test_a_close_without_a_message_is_read_from_the_table(code: str) -> None:
    reason = CloseReason.from_close(close_code_of(code), code)
    assert (reason.code, reason.retry) == (code, ERRORS[code].retry)


@pytest.mark.parametrize(
    ("close_code", "text", "code", "retry"),
    [
        (1000, None, "normal", "never"),
        (1001, None, "shutdown", "backoff"),
        (1002, None, "protocol_error", "never"),
        (4000, None, "heartbeat_timeout", "backoff"),
        (4001, "out_of_words", "disconnected", "never"),
        (1005, None, "connection_lost", "backoff"),
        (1006, None, "connection_lost", "backoff"),
        (1008, None, "close_1008", "never"),
        (1008, "own_code", "own_code", "never"),
        (1013, "", "server_busy", "backoff"),
        (1014, None, "close_1014", "backoff"),
        (4999, None, "close_4999", "never"),
    ],
)
def test_other_closes_are_judged_by_their_code(
    close_code: int, text: str | None, code: str, retry: str
) -> None:
    reason = CloseReason.from_close(close_code, text)
    assert (reason.code, reason.retry) == (code, retry)


# ------------------------------------------------------------------------------ being refused


@pytest.mark.parametrize("token", ["forged", "revoked", "blocked", None, "bob"])
async def test_never_is_never_tried_again(autojump_clock: MockClock, token: str | None) -> None:
    async with playing() as place:
        with pytest.raises(ConnectRejectedError) as refused:
            async with place.connect(token=token):
                pytest.fail("entered")
        assert (refused.value.retry, refused.value.close_code) == ("never", 1008)
        assert len(place.attempts) == 1


async def test_never_when_ready_ends_the_client(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        place.harness.server.disconnect(user="alice")
        with trio.fail_after(1):
            await client.wait_state(State.CLOSED)
        assert client.close_reason is not None
        assert (client.close_reason.code, client.close_reason.close_code) == ("disconnected", 4001)
        for asking in (client.request("echo"), client.send("note"), anext(client.messages())):
            with pytest.raises(ConnectionLostError, match="disconnected"):
                await asking
        assert len(place.attempts) == 1


async def test_an_expired_token_is_asked_for_again_at_once(autojump_clock: MockClock) -> None:
    tokens = iter(["expired", "alice"])

    async def token() -> str:
        return next(tokens)

    async with playing() as place, place.connect(token=token):
        assert place.attempts == [0.0, 0.0]


async def test_tokens_that_go_on_being_expired_are_asked_for_with_pauses(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place:
        with pytest.raises(ConnectTimeoutError) as timeout:
            async with place.connect(token=lambda: "expired"):
                pytest.fail("entered")
        assert isinstance(timeout.value, trio.TooSlowError)
        assert trio.current_time() == 30.0
        assert 4 < len(place.attempts) < 15


async def test_an_expired_token_that_nobody_can_renew_is_the_end(autojump_clock: MockClock) -> None:
    async with playing() as place:
        with pytest.raises(ConnectRejectedError) as refused:
            async with place.connect(token="expired"):
                pytest.fail("entered")
        assert (refused.value.code, refused.value.retry) == ("token_expired", "refresh_token")
        assert len(place.attempts) == 1


async def test_what_the_token_callable_raises_comes_out(autojump_clock: MockClock) -> None:
    async def token() -> str:
        raise LookupError("no session")

    async with playing() as place:
        with pytest.raises(LookupError, match="no session"):
            async with place.connect(token=token):
                pytest.fail("entered")


async def test_a_token_that_cannot_be_fetched_now_is_fetched_later(
    autojump_clock: MockClock,
) -> None:
    fails = iter([OSError("no network"), OSError("no network")])

    def token() -> str:
        for error in fails:
            raise error
        return "alice"

    async with playing() as place, place.connect(token=token):
        assert len(place.attempts) == 1
        assert place.attempts[0] > 0


# ------------------------------------------------------------------------------ the network


async def test_a_server_that_is_not_there_yet_is_waited_for(autojump_clock: MockClock) -> None:
    async with playing() as place, trio.open_nursery() as nursery:
        place.down = True

        async def appear() -> None:
            await trio.sleep(5)
            place.down = False

        nursery.start_soon(appear)
        async with place.connect():
            assert 5 <= trio.current_time() < 20
            assert len(place.attempts) > 3


async def test_attempts_can_be_limited(autojump_clock: MockClock) -> None:
    async with playing() as place:
        place.down = True
        for options in ({"max_attempts": 3}, {"reconnect": False}):
            place.attempts.clear()
            with pytest.raises(ConnectionLostError, match="Cannot connect"):
                async with place.connect(**options):
                    pytest.fail("entered")
            assert len(place.attempts) == options.get("max_attempts", 1)


async def test_a_request_in_flight_is_lost_with_its_connection(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(ConnectionLostError):
                await client.request("slow", {"ms": 1000})
            assert trio.current_time() == 0.5

        async def follow() -> None:
            async with client.stream("forever") as chunks:
                with pytest.raises(ConnectionLostError):
                    await collect(chunks, [])

        nursery.start_soon(ask)
        nursery.start_soon(follow)
        await trio.sleep(0.5)
        place.cut()
        await client.wait_state(State.RECONNECTING)
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}
        assert place.world.seen.count(("slow", 1000)) == 1


async def test_subscriptions_come_back_and_say_that_there_was_a_gap(
    autojump_clock: MockClock,
) -> None:
    states: list[State] = []
    async with (
        playing() as place,
        place.connect(on_state=states.append) as client,
        client.subscribe("a") as one,
        client.subscribe("a", "b") as both,
    ):
        place.cut()
        await client.wait_state(State.RECONNECTING)
        await client.publish("a", 1)
        await client.publish("a", 2)
        for events in (one, both):
            assert [(await anext(events)).gap, (await anext(events)).gap] == [True, False]
    ready, again = State.READY, State.RECONNECTING
    assert states == [ready, again, ready, State.CLOSED]


async def test_a_server_that_restarts_is_joined_in_the_slot_it_named(
    autojump_clock: MockClock,
) -> None:
    async with (
        playing(Config(port=0, shutdown=ShutdownConfig(drain_period=8.0))) as old,
        playing() as new,
        old.connect(open_stream=_first(old, new)) as client,
        client.subscribe("news") as events,
        trio.open_nursery() as nursery,
    ):
        await trio.sleep(2)
        nursery.start_soon(old.harness.server.drain, "restart")
        await client.wait_state(State.RECONNECTING)
        assert client.close_reason is not None
        assert client.close_reason.code == "restart"
        await client.wait_state(State.READY)
        assert new.attempts == [pytest.approx(10.0)]
        await client.publish("news", 1)
        assert (await anext(events)).data == 1


def _first(old: Place, new: Place) -> Callable[..., Awaitable[trio.abc.Stream]]:
    places = iter([old])
    return lambda address: next(places, new).open_stream(address)


# ------------------------------------------------------------------------------ what a server says


async def test_goaway_is_obeyed_from_its_arrival(autojump_clock: MockClock) -> None:
    assert await _comes_back_after(_goaway) == pytest.approx(7.0)


async def _goaway(websocket: WebSocketConnection) -> None:
    await greet(websocket)
    away = Goaway(reason="restart", deadline_ms=2000, reconnect_after_ms=7000)
    await websocket.send_message(codec.encode(away).decode())
    await trio.sleep(2)
    await websocket.aclose(1012, "restart")


async def test_retry_after_is_the_least_it_waits(autojump_clock: MockClock) -> None:
    assert 3.0 <= await _comes_back_after(_busy) <= 3.5


async def _busy(websocket: WebSocketConnection) -> None:
    error = Error("server_busy", "Full.", "backoff", fatal=True, retry_after_ms=3000)
    await websocket.send_message(HELLO)
    await websocket.send_message(codec.encode(error).decode())
    await websocket.aclose(1013, "server_busy")


async def _comes_back_after(script: Script) -> float:
    """Seconds from the first attempt to the second one that follows the script."""

    async def good(websocket: WebSocketConnection) -> None:
        times.append(trio.current_time())
        await greet(websocket)
        await websocket.get_message()

    times: list[float] = []
    async with trio.open_nursery() as nursery:
        open_stream = scripted(nursery, script, good)
        async with connect(URL, open_stream=open_stream, backoff=seeded()) as client:
            while not times:
                await client.wait_state(State.RECONNECTING)
                await client.wait_state(State.READY)
    return times[0]


@pytest.mark.parametrize(
    ("head", "code", "attempts"),
    [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\nno", "http_404", 1),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "http_403", 1),
        ("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", "http_426", 1),
        ("SSH-2.0-OpenSSH_9.6\r\n", "protocol_error", 1),
        (
            "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "protocol_error",
            1,
        ),
        ("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n", "http_503", 2),
        ("HTTP/1.1 429 Slowly\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "http_429", 2),
        ("", "connection_lost", 2),
    ],
)
async def test_what_http_says_decides_as_well(
    autojump_clock: MockClock, head: str, code: str, attempts: int
) -> None:
    times: list[float] = []

    async def open_stream(address: object) -> trio.abc.Stream:
        times.append(trio.current_time())
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(head.encode())
        if not head or head.startswith("SSH"):
            await theirs.send_eof()
        return ours

    with pytest.raises((ConnectRejectedError, ConnectionLostError)) as error:
        async with connect(URL, open_stream=open_stream, max_attempts=2):
            pytest.fail("entered")
    assert isinstance(error.value, ConnectRejectedError | ConnectionLostError)
    assert isinstance(error.value, ConnectRejectedError) == error.value.reason.by_server
    assert error.value.reason.code == code
    assert len(times) == attempts
    if "Retry-After" in head:
        assert 7.0 <= times[1] <= 7.5
