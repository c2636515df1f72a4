"""A client from its first message to its last: heartbeats, expiry, and every way to end."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from tests.client.playground import HELLO, URL, Place, collect, greet, playing, scripted
from trioserver import AuthConfig, Config
from trioserver.client import (
    Client,
    ClientError,
    ConnectionLostError,
    ConnectRejectedError,
    ConnectTimeoutError,
    State,
    connect,
)

SECRET = "secret-token"


# ------------------------------------------------------------------------------ opening


async def test_the_first_message_is_auth_and_names_the_heartbeat(
    autojump_clock: MockClock,
) -> None:
    assert await _first_message(token="t") == '{"type":"auth","token":"t"}'
    mode = {"heartbeat": "message"}
    assert await _first_message(**mode) == '{"type":"auth","heartbeat":"message"}'
    fields = {"type": "initial", "user_id": "alice"}
    assert await _first_message(initial=fields) == '{"type":"initial","user_id":"alice"}'


async def _first_message(**options: Any) -> str | bytes:
    seen: list[str | bytes] = []

    async def keep(websocket: WebSocketConnection) -> None:
        seen.append(await greet(websocket))
        await websocket.get_message()

    async with (
        trio.open_nursery() as nursery,
        connect(URL, open_stream=scripted(nursery, keep), **options),
    ):
        pass
    return seen[0]


async def test_an_alias_is_understood_by_the_server(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect(initial={"type": "initial"}) as client:
        assert client.ready is not None
        assert client.ready.user == {"id": "alice"}


async def test_a_token_can_stand_in_the_query(autojump_clock: MockClock) -> None:
    async with (
        playing(allow_query_token=True) as place,
        place.connect(f"{URL}?a=b", token_in_query=True) as client,
    ):
        assert client.state is State.READY


async def test_with_the_token_in_the_query_the_heartbeat_is_chosen_there(
    autojump_clock: MockClock,
) -> None:
    async with (
        playing(allow_query_token=True) as place,
        place.connect(token_in_query=True, heartbeat="message") as client,
    ):
        assert client.ready is not None
        assert client.ready.heartbeat.mode == "message"


async def test_a_server_that_says_nothing_is_given_up(autojump_clock: MockClock) -> None:
    async def silent(websocket: WebSocketConnection) -> None:
        await websocket.send_message(HELLO)
        await trio.sleep_forever()

    for reconnect in (True, False):
        async with trio.open_nursery() as nursery:
            begun = trio.current_time()
            with pytest.raises(ConnectTimeoutError):
                async with connect(
                    URL, open_stream=scripted(nursery, silent), ready_timeout=3, reconnect=reconnect
                ):
                    pytest.fail("entered")
            assert trio.current_time() - begun == 3
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url", ["http://x/", "ws://", "x", "ws://x/#a", "ws://user@x/", "ws://x:y/", "ws://x:99999/"]
)
async def test_what_is_no_url_of_a_websocket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|Port|port"):
        async with connect(url):
            pytest.fail("entered")


@pytest.mark.parametrize(
    "option",
    [{"ready_timeout": 0}, {"max_attempts": 0}, {"heartbeat": "x"}, {"request_timeout": -1}],
)
async def test_an_option_that_makes_no_sense_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        async with connect(URL, **option):
            pytest.fail("entered")


# ------------------------------------------------------------------------------ heartbeats


@pytest.mark.parametrize("mode", ["frame", "message"])
async def test_heartbeats_are_answered_for_as_long_as_it_takes(
    autojump_clock: MockClock, mode: str
) -> None:
    async with playing() as place, place.connect(heartbeat=mode) as client:
        await trio.sleep(3000)
        assert client.state is State.READY
        assert len(place.attempts) == 1


async def test_a_server_that_has_died_is_noticed(autojump_clock: MockClock) -> None:
    async def dead(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with connect(URL, open_stream=scripted(nursery, dead)) as client:
            await client.wait_state(State.RECONNECTING)
            assert trio.current_time() == 40.0  # the interval and the timeout of `ready`
            assert client.close_reason is not None
            assert client.close_reason.code == "server_silent"
        nursery.cancel_scope.cancel()


async def test_anything_that_arrives_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    async def pong(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        for _ in range(10):
            await trio.sleep(35)
            await websocket.pong()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with connect(URL, open_stream=scripted(nursery, pong)) as client:
            await client.wait_state(State.RECONNECTING)
            assert trio.current_time() == 390.0
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------ expiry


async def test_an_expiring_token_is_renewed_on_the_same_connection(
    autojump_clock: MockClock,
) -> None:
    asked: list[float] = []

    async def token() -> str:
        asked.append(trio.current_time())
        return "alice:600"

    async with playing(Config(port=0, auth=AuthConfig(expiry_warning=60))) as place:
        async with place.connect(token=token) as client:
            await trio.sleep(2000)
            assert client.state is State.READY
        assert asked == [0, 540, 1080, 1620]
        assert len(place.attempts) == 1


async def test_a_token_that_cannot_be_renewed_counts_until_it_expires(
    autojump_clock: MockClock,
) -> None:
    asked: list[float] = []

    async def token() -> str:
        asked.append(trio.current_time())
        if len(asked) == 2:
            raise OSError(SECRET)
        return "alice:600"

    async with playing() as place, place.connect(token=token) as client:
        await trio.sleep(1000)
        assert client.state is State.READY
        assert (asked, place.attempts) == ([0, 540, 600], [0, 600])


async def test_a_token_without_a_callable_ends_with_its_expiry(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect(token="alice:600") as client:
        await client.wait_state(State.CLOSED)
        assert trio.current_time() == 600
        assert client.close_reason is not None
        assert client.close_reason.code == "token_expired"


async def test_a_program_can_renew_the_token_itself(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect(token="alice:600") as client:
        await client.refresh("alice:1200")
        await trio.sleep(1000)
        assert client.state is State.READY
        with pytest.raises(ConnectionLostError, match="access_denied"):
            await client.refresh("bob")
        await client.wait_state(State.CLOSED)


# ------------------------------------------------------------------------------ ending


async def test_leaving_says_goodbye(autojump_clock: MockClock) -> None:
    codes: list[int] = []

    async def listen(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        try:
            await websocket.get_message()
        finally:
            assert websocket.closed is not None
            codes.append(websocket.closed.code)

    async with (
        trio.open_nursery() as nursery,
        connect(URL, open_stream=scripted(nursery, listen)) as client,
    ):
        pass
    assert codes == [1000]
    assert client.state is State.CLOSED
    with pytest.raises(ConnectionLostError) as raised:
        await client.ping()
    assert raised.value.reason.code == "closed"
    assert [message async for message in client.messages()] == []


async def test_leaving_does_not_wait_for_a_server_that_does_not_answer(
    autojump_clock: MockClock,
) -> None:
    async def open_stream(address: object) -> trio.abc.Stream:
        stream = await inner(address)  # type: ignore[arg-type]
        nursery.start_soon(trio.sleep, 0)
        return stream

    async def stop(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        stopped.set()
        await trio.sleep_forever()

    stopped = trio.Event()
    async with trio.open_nursery() as nursery:
        inner = scripted(nursery, stop)
        async with connect(URL, open_stream=open_stream):
            await stopped.wait()
        assert trio.current_time() <= 5
        nursery.cancel_scope.cancel()


async def test_a_server_that_closes_normally_is_not_come_back_to(
    autojump_clock: MockClock,
) -> None:
    async def finish(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        await websocket.send_message('{"type":"last.words","data":1}')
        await websocket.aclose(1000)

    async with (
        trio.open_nursery() as nursery,
        connect(URL, open_stream=scripted(nursery, finish)) as client,
    ):
        assert [message.data async for message in client.messages()] == [1]
        assert client.close_reason is not None
        assert client.close_reason.code == "normal"


@pytest.mark.parametrize(
    "garbage",
    ["x", "[]", '{"type":"hello"}', '{"type":"ready"}', b"x", '{"type":"ack","id":[]}', HELLO],
)
async def test_garbage_from_the_server_is_closed_with_1002(
    autojump_clock: MockClock, garbage: str | bytes
) -> None:
    codes: list[int] = []

    async def babble(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        await websocket.send_message(garbage)
        try:
            await websocket.get_message()
        finally:
            assert websocket.closed is not None
            codes.append(websocket.closed.code)

    async with (
        trio.open_nursery() as nursery,
        connect(URL, open_stream=scripted(nursery, babble)) as client,
    ):
        with pytest.raises(ConnectionLostError, match="protocol_error"):
            await collect(client.messages(), [])
    assert codes == [1002]


async def test_frames_that_are_none_are_the_end(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        await place.streams[0].send_all(b"\xff" * 10)
        await client.wait_state(State.CLOSED)
        assert client.close_reason is not None
        assert client.close_reason.code == "protocol_error"


async def test_a_message_over_the_clients_limit_ends_it(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect(max_message_bytes=5000) as client:
        with pytest.raises(ConnectionLostError, match="message_too_big"):
            await client.request("echo", {"text": "x" * 6000})


async def test_an_exception_of_the_block_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async with playing() as place:
        for error in (ValueError("mine"), ExceptionGroup("mine", [ValueError("inner")])):
            with pytest.raises(type(error)) as raised:
                async with place.connect():
                    raise error
            assert raised.value is error


async def test_what_the_callback_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    def fail(state: State) -> None:
        if state is State.RECONNECTING:
            raise LookupError("mine")

    async with playing() as place:
        with pytest.raises(LookupError, match="mine"):
            async with place.connect(on_state=fail) as client:
                await _cut(place, client)


async def _cut(place: Place, client: Client) -> None:
    place.cut()
    await client.wait_state(State.CLOSED)


# ------------------------------------------------------------------------------ cancelling


class CancelAt(trio.abc.Instrument):
    """Cancels a scope as one task is about to run for the ``step``-th time."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._task = trio.lowlevel.current_task()
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def _everything(client: Client) -> None:
    await client.request("echo", {"text": "a"})
    await client.ping()
    async with client.subscribe("news") as events:
        await client.publish("news", 1)
        await anext(events)
    async with client.stream("forever") as chunks:
        await anext(chunks)
        await anext(chunks)
    await client.send("push", {"to": 1})
    await anext(client.messages())
    await client.refresh("alice:600")


async def test_cancelling_at_each_await_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with playing() as place:
        for step in range(1, 200):
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                async with place.connect() as client:
                    await _everything(client)
            trio.lowlevel.remove_instrument(instrument)
            await place.harness.assert_nothing_left()
            if not scope.cancelled_caught:
                break
        assert step > 20


async def test_cancelling_what_is_asked_leaves_the_client_as_it_was(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        for step in range(1, 200):
            with trio.CancelScope() as scope:
                instrument = CancelAt(scope, step)
                trio.lowlevel.add_instrument(instrument)
                await _everything(client)
            trio.lowlevel.remove_instrument(instrument)
            await client.ping()
            connection = client._reconnector._connection
            assert connection is not None
            assert not connection.requests.count
            assert not connection.requests.protocol._pending
            assert not len(client._reconnector.subscribers)
            await client.request("slow", {"ms": 0})  # behind what was cancelled
            assert place.harness.server.statistics().topics == 0
            if not scope.cancelled_caught:
                break
        assert len(place.attempts) == 1
        assert step > 10


async def test_leaving_as_the_connection_is_lost_does_not_come_back(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place:
        for pause in range(30):
            async with place.connect():
                place.cut()
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()
            assert trio.current_time() == 0
            place.attempts.clear()


async def test_a_cancelled_client_is_closed(autojump_clock: MockClock) -> None:
    async with playing() as place:
        with trio.move_on_after(1):
            async with place.connect() as client:
                await trio.sleep_forever()
        assert client.state is State.CLOSED
        with pytest.raises(ConnectionLostError) as raised:
            await client.ping()
        assert raised.value.reason.code == "closed"
        assert trio.current_time() == 1


# ------------------------------------------------------------------------------ secrets


async def test_a_token_is_in_no_repr_text_or_log(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    shown: list[object] = []
    async with playing(allow_query_token=True) as place:
        for in_query in (False, True):
            with pytest.raises(ConnectRejectedError) as refused:
                async with place.connect(token=SECRET, token_in_query=in_query):
                    pytest.fail("entered")
            shown.append(refused.value)
        place.down = True
        with pytest.raises(ClientError) as lost:
            async with place.connect(token=SECRET, token_in_query=True, max_attempts=2):
                pytest.fail("entered")
        shown.append(lost.value)
        place.down = False
        async with place.connect(f"{URL}?key={SECRET}") as client:
            shown += [
                client,
                client._options,
                client._reconnector.url,
                client._reconnector._connection,
                client.close_reason,
            ]
    output = capsys.readouterr()
    assert SECRET not in f"{shown!r} {[str(it) for it in shown]} {output} {caplog.text}"
