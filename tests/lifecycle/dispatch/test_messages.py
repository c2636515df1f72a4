"""Handlers of all kinds, and the order of their answers."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import backend_of, serving
from tests.support.client import Closed, Message, masked
from trioserver import Config, Connection, HandlerConfig, LimitsConfig
from trioserver.storage import DatabaseUnavailableError


async def test_every_kind_of_handler_answers(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        ack = await client.request("echo", {"text": "hé"}, id=1)
        assert ack == {"type": "ack", "id": 1, "data": {"text": "hé"}}
        ack = await client.request("slow", {"ms": 5}, id="b")
        assert ack == {"type": "ack", "id": "b", "data": {"ms": 5}}
        assert await client.request("note", id=3) == {"type": "ack", "id": 3}
        await client.send(type="count", id=4, data={"to": 2})
        assert [await client.receive() for _ in range(3)] == [
            {"type": "chunk", "id": 4, "seq": 0, "data": {"n": 0}},
            {"type": "chunk", "id": 4, "seq": 1, "data": {"n": 1}},
            {"type": "end", "id": 4},
        ]


async def test_a_message_without_an_id_is_handled_and_not_answered(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="note")
        await client.send(type="slow", data={"ms": 1})
        assert (await client.request("note", id=9))["id"] == 9
        assert harness.world.seen == ["ready", "note", ("slow", 1), "note"]


async def test_inline_handlers_never_overtake_what_waits_in_the_loop(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 1000})
        await client.send(type="echo", id=2, data={"text": "a"})
        await client.send(type="count", id=3, data={"to": 1})
        await client.send(type="slow", id=4, data={"ms": 1})
        await client.send(type="echo", id=5, data={"text": "b"})
        answers = [await client.receive() for _ in range(6)]
        assert [answer["id"] for answer in answers if answer["type"] == "ack"] == [1, 2, 4, 5]
        assert harness.world.seen[1:] == [("slow", 1000), ("echo", "a"), ("slow", 1), ("echo", "b")]


async def test_inline_handlers_do_not_overtake_what_came_in_the_same_segment(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await trio.testing.wait_all_tasks_blocked()
        await client.send_bytes(
            masked(type="slow", id=1, data={"ms": 1}) + masked(type="note", id=2)
        )
        assert [(await client.receive())["id"] for _ in range(2)] == [1, 2]
        assert harness.world.seen == ["ready", ("slow", 1), "note"]


async def test_ping_is_answered_while_a_handler_runs(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 1000})
        await client.send(type="ping", id="p", data=[1, 2])
        pong = await client.receive()
        assert (pong["type"], pong["id"], pong["data"]) == ("pong", "p", [1, 2])
        assert pong["timestamp"].startswith("2023-11-14T22:13:20")


async def test_a_handler_that_hangs_is_answered_unavailable_and_the_next_one_runs(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, handlers=HandlerConfig(timeout=3.0))
    async with serving(config) as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 1_000_000})
        await client.send(type="slow", id=2, data={"ms": 1})
        error = await client.receive()
        assert (error["code"], error["id"], error["fatal"]) == ("unavailable", 1, False)
        assert trio.current_time() == pytest.approx(3.0, abs=0.01)
        assert (await client.receive())["id"] == 2
        assert harness.world.cancelled == 1


async def test_a_handler_is_cancelled_when_the_peer_leaves(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 1_000_000})
        await client.send(type="forever", id=2)
        await trio.sleep(1)
        await client.close()
        await harness.assert_nothing_left()
        assert harness.world.cancelled == 1
        assert harness.world.seen[-1] == "closed"


async def test_a_stream_is_cancelled_halfway_and_still_gets_its_end(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="forever", id=1)
        for _ in range(3):
            assert (await client.receive())["type"] == "chunk"
        await client.send(type="cancel", id=1)
        assert await client.receive() == {"type": "end", "id": 1, "cancelled": True}
        assert harness.world.seen[-1] == "forever ended"
        assert (await client.request("echo", {"text": "x"}, id=1))["type"] == "ack"


async def test_a_stream_is_cancelled_while_it_waits_in_the_loop(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 100})
        await client.send(type="forever", id=2)
        await client.send(type="cancel", id=2)
        assert (await client.receive())["id"] == 1
        assert await client.receive() == {"type": "end", "id": 2, "cancelled": True}
        assert "forever ended" not in harness.world.seen


async def test_cancelling_what_is_no_stream_changes_nothing(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 100})
        await client.send(type="slow", id=2, data={"ms": 100})
        for id in (1, 2, "nobody"):
            await client.send(type="cancel", id=id)
        assert [(await client.receive())["id"] for _ in range(2)] == [1, 2]


async def test_a_stream_that_raises_is_answered_with_an_error(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="broken_stream", id=1)
        assert (await client.receive())["type"] == "chunk"
        error = await client.receive()
        assert (error["code"], error["id"], error["fatal"]) == ("internal_error", 1, False)
        assert (await client.request("echo", {"text": "x"}, id=1))["type"] == "ack"


async def test_a_stream_that_is_stuck_is_answered_unavailable(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="stuck", id=1)
        error = await client.receive()
        assert (error["code"], error["id"]) == ("unavailable", 1)
        assert trio.current_time() == pytest.approx(60.0, abs=0.01)


async def test_streams_run_side_by_side_up_to_a_limit(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_streams=2))
    async with serving(config) as harness:
        client = await harness.ready()
        for id in (1, 2, 3):
            await client.send(type="forever", id=id)
        answers: dict[int, Message] = {}
        while len(answers) < 3:
            answer = await client.receive()
            answers[answer["id"]] = answer
        assert answers[1]["type"] == answers[2]["type"] == "chunk"
        assert answers[3]["code"] == "too_many_in_flight"
        await client.send(type="cancel", id=1)
        assert (await client.receive_until("end"))["id"] == 1
        await client.send(type="count", id=3, data={"to": 1})
        assert (await client.receive_until("end"))["id"] == 3


async def test_requests_in_flight_have_a_limit(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_in_flight=3))
    async with serving(config) as harness:
        client = await harness.ready()
        for id in range(5):
            await client.send(type="slow", id=id, data={"ms": 100})
        answers = [await client.receive() for _ in range(5)]
        refused = [answer["id"] for answer in answers if answer["type"] == "error"]
        assert refused == [3, 4]
        assert [a["code"] for a in answers if a["type"] == "error"] == ["too_many_in_flight"] * 2


async def test_reading_pauses_while_the_loop_is_full_and_goes_on(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, limits=LimitsConfig(max_queued_messages=4))
    async with serving(config) as harness:
        client = await harness.ready()
        (connection,) = harness.server.connections
        for id in range(30):
            await client.send(type="slow", id=id, data={"ms": 1000})
            await trio.testing.wait_all_tasks_blocked()
        assert backend_of(connection).websocket.paused
        assert connection.statistics().in_flight <= 6
        answers = [await client.receive() for _ in range(30)]
        assert [answer["id"] for answer in answers] == list(range(30))
        assert not backend_of(connection).websocket.paused


async def test_a_busy_client_that_is_not_read_is_not_taken_for_dead(
    autojump_clock: MockClock,
) -> None:
    config = Config(
        port=0, limits=LimitsConfig(max_queued_messages=2), handlers=HandlerConfig(timeout=600.0)
    )
    async with serving(config) as harness:
        client = await harness.ready()
        for id in range(8):
            await client.send(type="slow", id=id, data={"ms": 100_000})
        answers = [await client.receive() for _ in range(8)]
        assert [answer["type"] for answer in answers] == ["ack"] * 8


async def test_many_messages_in_one_segment_are_all_answered_in_order(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        frames = [masked(type="echo", id=id, data={"text": "x"}) for id in range(100)]
        await client.send_bytes(b"".join(frames))
        assert [(await client.receive())["id"] for _ in range(100)] == list(range(100))


async def test_fragments_make_one_message(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        text = json.dumps({"type": "echo", "id": 1, "data": {"text": "é"}}, ensure_ascii=False)
        data = text.encode()
        for index in range(len(data)):
            first = (0x01 if index == 0 else 0x00) | (0x80 if index == len(data) - 1 else 0)
            await client.send_bytes(bytes((first, 0x81)) + bytes(4) + data[index : index + 1])
        assert (await client.receive())["data"] == {"text": "é"}


async def test_the_hook_runs_before_the_first_message_and_its_refusal_closes(
    autojump_clock: MockClock,
) -> None:
    from trioserver import Refusal

    async with serving() as harness:
        route = harness.server.application.routes[0]

        async def hook(connection: Connection) -> None:
            await connection.send("welcome", {"user": connection.user.id})
            if connection.user.id == "mallory":
                raise Refusal("session_blocked")

        route.ready_hook = hook  # in place of its own
        harness.world.owners["3"] = "mallory"
        client = await harness.connect()
        await client.send(type="auth", token="alice")
        await client.send(type="note", id=1)
        types = [(await client.receive())["type"] for _ in range(4)]
        assert types == ["hello", "ready", "welcome", "ack"]
        client = await harness.ready("/ws/3", "mallory")
        messages, closed = await client.receive_end()
        assert [message["type"] for message in messages] == ["welcome", "error"]
        assert closed == Closed(1008, "session_blocked")
        await client.stream.aclose()


async def test_a_task_of_the_connection_that_crashes_ends_that_connection_only(
    autojump_clock: MockClock,
) -> None:

    async with serving() as harness:
        other = await harness.ready()
        await trio.testing.wait_all_tasks_blocked()  # its own hook has been called

        async def crash() -> None:
            raise RuntimeError("secret detail")

        def hook(connection: Connection) -> None:
            connection.start_soon(crash)

        harness.server.application.routes[0].ready_hook = hook
        client = await harness.ready()
        (error,), closed = await client.receive_end()
        assert closed == Closed(1011, "internal_error")
        assert "secret" not in str(error)
        assert (await other.request("echo", {"text": "x"}))["type"] == "ack"


async def test_fields_go_beside_the_data_in_their_order(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        (connection,) = harness.server.connections
        await connection.send("greeting", fields={"user": {"id": "a"}, "n": 1})
        connection.send_nowait("greeting", 2, fields={"user": "a"})
        assert list((await client.receive()).items()) == [
            ("type", "greeting"),
            ("user", {"id": "a"}),
            ("n", 1),
        ]
        assert await client.receive() == {"type": "greeting", "user": "a", "data": 2}
        for own in ("type", "id", "data"):
            with pytest.raises(ValueError, match=own):
                connection.send_nowait("greeting", fields={own: 1})
        with pytest.raises(TypeError):
            connection.send_nowait("greeting", fields={"user": object()})
        assert (await client.request("note", id=1))["type"] == "ack"


async def test_a_handler_whose_database_is_away_is_answered_unavailable(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        app = harness.server.application

        async def fetch(connection: Connection) -> None:
            raise DatabaseUnavailableError("timeout", "The database did not answer within 5 s.")

        app.routes[0].on("fetch")(fetch)
        client = await harness.ready()
        error = await client.request("fetch")
        assert (error["code"], error["fatal"]) == ("unavailable", False)
        assert "database" not in error["message"].lower()
        assert (await client.request("note", id=2))["type"] == "ack"
