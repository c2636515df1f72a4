"""What a program asks of a client that is ready."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from tests.client.playground import collect, greet, playing, scripted
from trioserver import Config, LimitsConfig
from trioserver.client import (
    BufferOverflowError,
    ConnectionLostError,
    Event,
    PushMessage,
    RequestRejectedError,
    RequestTimeoutError,
    State,
    connect,
)


class Text(msgspec.Struct):
    text: str


class Number(msgspec.Struct):
    n: int


async def test_a_reply_is_decoded_as_the_type_that_was_asked_for(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}
        assert await client.request("echo", Text("a"), reply=Text) == Text("a")
        assert await client.request("note") is None
        with pytest.raises(msgspec.ValidationError):
            await client.request("echo", Text("a"), reply=Number)


async def test_a_refused_request_says_why_and_leaves_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        with pytest.raises(RequestRejectedError) as refused:
            await client.request("refuse")
        assert (refused.value.code, refused.value.retry) == ("not_found", "never")
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}


async def test_the_answer_to_a_stream_handler_can_be_had_as_a_request(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        assert await client.request("count", {"to": 3}) is None


async def test_a_request_times_out_and_its_late_answer_is_nobodys(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        begun = trio.current_time()
        with pytest.raises(RequestTimeoutError) as timeout:
            await client.request("slow", {"ms": 5000}, timeout=2.0)
        assert isinstance(timeout.value, trio.TooSlowError)
        assert trio.current_time() - begun == 2.0
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}


async def test_a_request_too_large_for_the_server_is_refused_here(
    autojump_clock: MockClock,
) -> None:
    limits = LimitsConfig(max_message_bytes=1000)
    async with playing(Config(port=0, limits=limits)) as place, place.connect() as client:
        for _ in range(5000):  # more than a session keeps track of: none is kept
            with pytest.raises(RequestRejectedError, match="message_too_big"):
                await client.request("echo", {"text": "x" * 1000})
        with pytest.raises(RequestRejectedError, match="message_too_big"):
            await client.send("echo", {"text": "x" * 1000})
        assert client.state is State.READY


async def test_what_json_cannot_express_is_the_callers_fault(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        with pytest.raises(TypeError):
            await client.request("echo", object())
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}


async def test_ping_gives_the_round_trip(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        assert await client.ping() == 0.0


async def test_a_message_without_an_answer_arrives(autojump_clock: MockClock) -> None:
    async with playing() as place:
        async with place.connect() as client:
            await client.send("note")
        assert "note" in place.world.seen  # leaving sends what was queued


async def test_many_large_messages_wait_for_room_instead_of_piling_up(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place:
        place.lockstep = True
        async with place.connect() as client, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.request, "echo", {"text": "x" * 50_000})
            while len(place.world.seen) < 20:
                connection = client._reconnector._connection
                assert connection is None or connection.requests.send_queue.queued_bytes < 200_000
                await trio.sleep(0.01)


# ------------------------------------------------------------------------------ pushed


async def test_pushed_messages_come_in_order(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        await client.request("push", {"to": 2})
        messages = client.messages()
        assert [await anext(messages) for _ in range(2)] == [
            PushMessage("pushed", "x" * 10_000)
        ] * 2


async def test_pushed_messages_that_nobody_takes_are_counted_not_kept(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        for _ in range(4):
            await client.request("push", {"to": 50})
        kept: list[PushMessage] = []
        messages = client.messages()
        with pytest.raises(BufferOverflowError) as overflow:
            await collect(messages, kept)
        assert len(kept) + overflow.value.missed == 200
        assert 90 < len(kept) < 105  # a MiB
        await client.request("push", {"to": 1})
        assert await anext(messages) == PushMessage("pushed", "x" * 10_000)


# ------------------------------------------------------------------------------ topics


async def test_a_subscription_hears_its_topics_and_no_other(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        async with client.subscribe("news", payload=Number) as events:
            await client.publish("sport", {"n": 1})
            await client.publish("news", {"n": 2})
            assert await anext(events) == Event("news", 1, Number(2))
        assert place.harness.server.statistics().topics == 0


async def test_a_topic_is_heard_until_the_last_subscription_ends(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client, client.subscribe("a") as first:
        async with client.subscribe("a", "b"):
            assert place.harness.server.statistics().topics == 2
        assert place.harness.server.statistics().topics == 1
        await client.publish("a", 1)
        assert (await anext(first)).data == 1


async def test_a_subscription_that_is_refused_is_not_entered(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        with pytest.raises(RequestRejectedError, match="forbidden"):
            async with client.subscribe("secret"):
                pytest.fail("entered")
        assert not len(client._reconnector.subscribers)
        with pytest.raises(ValueError, match="1 to 100"):
            client.subscribe()


async def test_events_that_are_not_taken_in_time_are_said_to_be_missed(
    autojump_clock: MockClock,
) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.subscribe("news") as slow,
        client.subscribe("news") as quick,
    ):
        for n in range(60):
            await client.publish("news", [n, "x" * 30_000])
            assert (await anext(quick)).data[0] == n
        kept: list[Event] = []
        with pytest.raises(BufferOverflowError) as overflow:
            await collect(slow, kept)
        assert [event.offset for event in kept] == list(range(1, len(kept) + 1))
        assert overflow.value.missed == 60 - len(kept) > 0


# ------------------------------------------------------------------------------ what is wrong


async def test_what_it_asks_while_nobody_answers_has_a_deadline(autojump_clock: MockClock) -> None:
    async def silent(websocket: WebSocketConnection) -> None:
        await greet(websocket)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with connect("ws://x/", open_stream=scripted(nursery, silent)) as client:
            with pytest.raises(RequestTimeoutError):
                await client.ping(timeout=1)
            with pytest.raises(RequestTimeoutError):
                async with client.subscribe("a"):
                    pytest.fail("entered")
            assert not len(client._reconnector.subscribers)
        nursery.cancel_scope.cancel()
        with pytest.raises(ConnectionLostError):
            await client.ping()
