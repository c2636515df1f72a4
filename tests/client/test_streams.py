"""Answers in chunks: in order, as fast as they are taken, and cancelled when nobody wants them."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.client.playground import collect, playing
from trioserver.client import ConnectionLostError, RequestRejectedError, RequestTimeoutError


async def test_a_stream_gives_its_chunks_in_order_and_ends(autojump_clock: MockClock) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("count", {"to": 300}, reply=dict[str, int]) as chunks,
    ):
        assert [chunk["n"] async for chunk in chunks] == list(range(300))


async def test_streams_and_requests_run_side_by_side(autojump_clock: MockClock) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("forever") as one,
        client.stream("count", {"to": 2}) as two,
    ):
        assert await anext(one) == {"n": 0}
        assert [chunk async for chunk in two] == [{"n": 0}, {"n": 1}]
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}
        assert await anext(one) == {"n": 1}


async def test_leaving_early_cancels_the_stream_and_waits_for_its_end(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        async with client.stream("forever") as chunks:
            await anext(chunks)
        assert "forever ended" in place.world.seen
        connection = client._reconnector._connection
        assert connection is not None
        assert not connection.requests.count
        assert not connection.requests.protocol._pending


async def test_a_cancelled_consumer_cancels_the_stream_without_waiting(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place, place.connect() as client:
        with trio.move_on_after(2.5):
            async with client.stream("forever") as chunks:
                async for _ in chunks:
                    pass
        assert "forever ended" not in place.world.seen
        await client.ping()
        assert "forever ended" in place.world.seen


async def test_a_stream_that_fails_says_so_after_its_chunks(autojump_clock: MockClock) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("broken_stream") as chunks,
    ):
        assert await anext(chunks) == 0
        with pytest.raises(RequestRejectedError, match="internal_error"):
            await anext(chunks)


async def test_a_stream_that_is_refused_raises_when_iterated(autojump_clock: MockClock) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("nothing") as chunks,
    ):
        with pytest.raises(RequestRejectedError, match="unknown_type"):
            await anext(chunks)


async def test_a_request_that_is_no_stream_gives_its_answer_as_the_result(
    autojump_clock: MockClock,
) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("echo", {"text": "a"}) as chunks,
    ):
        assert [chunk async for chunk in chunks] == []
        assert chunks.result == {"text": "a"}


async def test_a_chunk_can_be_given_a_deadline(autojump_clock: MockClock) -> None:
    async with (
        playing() as place,
        place.connect() as client,
        client.stream("stuck", timeout=3.0) as chunks,
    ):
        with pytest.raises(RequestTimeoutError):
            await anext(chunks)


async def test_a_stream_is_opened_before_it_is_iterated(autojump_clock: MockClock) -> None:
    async with playing() as place, place.connect() as client:
        with pytest.raises(RuntimeError, match="async with"):
            await anext(client.stream("count", {"to": 1}))


# ------------------------------------------------------------------------------ slow consumers


async def test_a_slow_consumer_slows_the_source_down(autojump_clock: MockClock) -> None:
    async with playing() as place:
        place.lockstep = True
        async with (
            place.connect() as client,
            client.stream("flood", {"to": 1000}) as chunks,
        ):
            await trio.sleep(5)
            produced = place.world.seen.count("chunk")
            assert 100 < produced < 150  # a MiB here, and the server's share
            assert len([chunk async for chunk in chunks]) == 1000


async def test_a_slow_consumer_can_ask_meanwhile(autojump_clock: MockClock) -> None:
    async with playing() as place:
        place.lockstep = True
        async with place.connect() as client, client.stream("flood", {"to": 300}) as chunks:
            count = 0
            async for _ in chunks:
                await trio.sleep(0.01)
                assert await client.request("echo", {"text": "a"}, timeout=1) == {"text": "a"}
                count += 1
            assert count == 300


async def test_a_consumer_that_stops_loses_the_connection_and_is_told(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place:
        place.lockstep = True
        async with (
            place.connect(reconnect=False) as client,
            client.stream("flood", {"to": 1000}) as chunks,
        ):
            await trio.sleep(60)
            taken: list[str] = []
            with pytest.raises(ConnectionLostError, match="slow_consumer"):
                await collect(chunks, taken)
            assert len(taken) >= 100  # what had come can still be had


async def test_leaving_a_stream_that_was_not_read_lets_the_client_read_on(
    autojump_clock: MockClock,
) -> None:
    async with playing() as place:
        place.lockstep = True
        async with place.connect() as client:
            async with client.stream("flood", {"to": 1000}):
                await trio.sleep(1)
            assert await client.request("echo", {"text": "a"}) == {"text": "a"}
