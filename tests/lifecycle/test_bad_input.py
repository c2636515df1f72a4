"""What a peer must not send, and what it must not do: the documented answer, and nothing left."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import Harness, World, serving
from tests.support.client import Client, Closed, Rejected, masked
from trioserver import Config, LimitsConfig

DEEP = '{"type":"echo","id":1,"data":' + "[" * 100_000 + "]" * 100_000 + "}"

BAD_BEFORE_READY = [
    pytest.param("nope", 1008, "bad_message", id="not JSON"),
    pytest.param("", 1008, "bad_message", id="empty"),
    pytest.param("[]", 1008, "bad_message", id="not an object"),
    pytest.param("{}", 1008, "bad_message", id="no type"),
    pytest.param('{"type":5}', 1008, "bad_message", id="type is no string"),
    pytest.param('{"type":"auth","token":5}', 1008, "bad_message", id="token is no string"),
    pytest.param(DEEP[:16000], 1008, "bad_message", id="deep nesting"),
    pytest.param(
        '{"type":"auth","token":"' + "x" * 16384 + '"}', 1009, "message_too_big", id="big"
    ),
    pytest.param('{"type":"echo","id":1}', 1008, "auth_required", id="not auth"),
    pytest.param('{"type":"ping"}', 1008, "auth_required", id="ping"),
    pytest.param('{"type":"subscribe","topics":["a"]}', 1008, "auth_required", id="subscribe"),
    pytest.param('{"type":"ready"}', 1008, "auth_required", id="a server's message"),
]


@pytest.mark.parametrize(("text", "close_code", "code"), BAD_BEFORE_READY)
async def test_a_bad_first_message_is_refused_and_closed(
    autojump_clock: MockClock, text: str, close_code: int, code: str
) -> None:
    async with serving() as harness:
        quiet = await harness.ready()
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send_text(text)
        messages, closed = await client.receive_end()
        assert [message["code"] for message in messages] == [code]
        assert messages[0]["fatal"] is True
        assert closed == Closed(close_code, code)
        assert trio.current_time() <= 1.0
        await _still_served(harness, quiet)
        assert harness.world.seen.count("ready") == 1


BAD_WHEN_READY = [
    pytest.param("nope", None, "bad_message", id="not JSON"),
    pytest.param("[]", None, "bad_message", id="not an object"),
    pytest.param('{"id":1}', None, "bad_message", id="no type"),
    pytest.param(DEEP, None, "bad_message", id="100,000-deep nesting"),
    pytest.param('{"type":"echo","id":[]}', None, "bad_message", id="id is a list"),
    pytest.param('{"type":"echo","id":9007199254740992}', None, "bad_message", id="id too large"),
    pytest.param('{"type":"no such","id":1}', 1, "unknown_type", id="no type's name"),
    pytest.param('{"type":"nothing","id":1}', 1, "unknown_type", id="unknown type"),
    pytest.param('{"type":"ready","id":1}', 1, "unknown_type", id="a server's message"),
    pytest.param('{"type":"initial","id":1}', 1, "unknown_type", id="alias when ready"),
    pytest.param('{"type":"echo","id":1}', 1, "invalid_payload", id="no payload"),
    pytest.param(
        '{"type":"echo","id":1,"data":{"text":5}}', 1, "invalid_payload", id="wrong field"
    ),
    pytest.param('{"type":"slow","id":1,"data":"x"}', 1, "invalid_payload", id="wrong payload"),
    pytest.param(
        '{"type":"count","id":1,"data":{"to":-1}}', 1, "invalid_payload", id="out of range"
    ),
    pytest.param('{"type":"count","data":{"to":1}}', None, "invalid_payload", id="stream, no id"),
    pytest.param('{"type":"subscribe","id":1}', 1, "invalid_payload", id="no topics"),
    pytest.param(
        '{"type":"subscribe","topics":[""],"id":1}', 1, "invalid_payload", id="empty topic"
    ),
    pytest.param('{"type":"publish","id":1}', 1, "invalid_payload", id="no topic"),
    pytest.param('{"type":"cancel"}', None, "invalid_payload", id="cancel without an id"),
    pytest.param('{"type":"fail","id":1}', 1, "internal_error", id="handler raises"),
    pytest.param('{"type":"fail_inline","id":1}', 1, "internal_error", id="inline handler raises"),
    pytest.param('{"type":"unencodable","id":1}', 1, "internal_error", id="reply is no JSON"),
    pytest.param('{"type":"refuse","id":1}', 1, "not_found", id="handler refuses"),
]


@pytest.mark.parametrize(("text", "id", "code"), BAD_WHEN_READY)
async def test_a_bad_message_when_ready_is_answered_and_the_connection_goes_on(
    autojump_clock: MockClock, text: str, id: int | None, code: str
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send_text(text)
        error = await client.receive()
        assert (error["type"], error["code"], error.get("id")) == ("error", code, id)
        assert error["fatal"] is False
        assert "secret detail" not in str(error)
        await _still_served(harness, client)


async def test_the_path_of_a_bad_field_is_named(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        error = await client.request("echo", {"text": 5})
        assert "$.text" in error["message"]


FRAMES = [
    pytest.param(b"\x82\x81\x00\x00\x00\x00x", 1003, "binary_unsupported", id="binary"),
    pytest.param(b"\x81\x81\x00\x00\x00\x00\xff", 1007, "not_utf8", id="not UTF-8"),
    pytest.param(b"\x81\x01x", 1002, "protocol_error", id="not masked"),
    pytest.param(b"\xf1\x81\x00\x00\x00\x00x", 1002, "protocol_error", id="reserved bits"),
    pytest.param(b"\x81\xff" + b"\x00\x00\x00\x01" + bytes(8), 1009, "message_too_big", id="4 GiB"),
]


@pytest.mark.parametrize(("frame", "close_code", "code"), FRAMES)
@pytest.mark.parametrize("ready", [False, True])
async def test_a_frame_that_breaks_a_rule_is_closed_with_the_documented_code(
    autojump_clock: MockClock, frame: bytes, close_code: int, code: str, ready: bool
) -> None:
    async with serving() as harness:
        quiet = await harness.ready()
        client = await harness.connect()
        if ready:
            await client.authenticate()
        else:
            await client.receive_until("hello")
        await client.send_bytes(frame)
        messages, closed = await client.receive_end()
        assert [message["code"] for message in messages] == [code]
        assert closed == Closed(close_code, code)
        client.vanish()
        await _still_served(harness, quiet)


async def test_too_big_when_ready_is_judged_by_the_larger_limit(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_message_bytes=50_000))
    async with serving(config) as harness:
        client = await harness.ready()
        ack = await client.request("echo", {"text": "x" * 49_000})
        assert ack["type"] == "ack"
        await client.send(type="echo", id=2, data={"text": "x" * 50_000})
        (error,), closed = await client.receive_end()
        assert error["code"] == "message_too_big"
        assert closed == Closed(1009, "message_too_big")


async def test_messages_sent_before_ready_wait_for_it(autojump_clock: MockClock) -> None:
    async with serving(world=World(verify_delay=1.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await client.send(type="slow", id=1, data={"ms": 10})
        await client.send(type="echo", id=2, data={"text": "a"})
        await trio.sleep(0.5)
        assert harness.world.seen == []
        types = [(await client.receive())["type"] for _ in range(3)]
        assert types == ["ready", "ack", "ack"]
        assert harness.world.seen == ["ready", ("slow", 10), ("echo", "a")]


async def test_messages_behind_an_auth_that_fails_are_never_handled(
    autojump_clock: MockClock,
) -> None:
    async with serving(world=World(verify_delay=1.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="forged")
        await client.send(type="echo", id=2, data={"text": "a"})
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "token_invalid")
        assert harness.world.seen == []


async def test_too_much_before_ready_is_refused(autojump_clock: MockClock) -> None:
    async with serving(world=World(verify_delay=1.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        for _ in range(33):
            await client.send(type="note")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "auth_required")
        assert harness.world.seen == []


async def test_two_auth_messages_at_once_make_one_ready(autojump_clock: MockClock) -> None:
    async with serving(world=World(verify_delay=1.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice", id=1)
        await client.send(type="auth", token="alice", id=2)
        assert (await client.receive())["type"] == "ready"
        refreshed = await client.receive()
        assert (refreshed["type"], refreshed["id"]) == ("auth_refreshed", 2)
        assert harness.world.seen.count("ready") == 1


async def test_a_second_auth_during_a_refresh_is_refused_and_the_first_goes_on(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with serving(world=world) as harness:
        client = await harness.ready()
        world.verify_delay = 1.0
        await client.send(type="auth", token="alice", id=1)
        await client.send(type="auth", token="alice", id=2)
        error = await client.receive()
        assert (error["code"], error["id"], error["fatal"]) == ("too_many_in_flight", 2, False)
        assert (await client.receive())["type"] == "auth_refreshed"


async def test_an_id_in_flight_is_refused_and_free_again_after_the_answer(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id="a", data={"ms": 1000})
        for type in ("slow", "echo", "subscribe"):
            await client.send(type=type, id="a", data={"ms": 1, "text": ""}, topics=["t"])
            error = await client.receive()
            assert (error["code"], error["id"]) == ("duplicate_id", "a")
        assert (await client.receive()) == {"type": "ack", "id": "a", "data": {"ms": 1000}}
        assert (await client.request("echo", {"text": "x"}, id="a"))["type"] == "ack"


async def test_errors_without_end_end_the_connection(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        for _ in range(100):
            await client.send_text("nope")
        messages, closed = await client.receive_end()
        assert closed == Closed(1008, "too_many_errors")
        assert [message["code"] for message in messages[:-1]] == ["bad_message"] * 65
        assert messages[-1]["code"] == "too_many_errors"


async def test_a_flood_is_refused_then_closed(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(messages_per_second=5))
    async with serving(config) as harness:
        client = await harness.ready()
        for n in range(12):
            await client.send(type="note", id=n)
        answers = [await client.receive() for _ in range(12)]
        assert [answer["type"] for answer in answers] == ["ack"] * 10 + ["error"] * 2
        refused = answers[10]
        assert (refused["code"], refused["id"], refused["fatal"]) == ("rate_limited", 10, False)
        assert 0 < refused["retry_after_ms"] <= 200
        await trio.sleep(1.0)
        assert (await client.request("note", id=99))["type"] == "ack"
        for n in range(30):
            await client.send(type="note", id=n)
        messages, closed = await client.receive_end()
        assert closed == Closed(1008, "rate_limited")
        assert messages[-1]["fatal"] is True


HALVES = [b"", b"GET /ws/1 HT", b"GET /ws/1 HTTP/1.1\r\nHost: x\r\n"]


@pytest.mark.parametrize("head", HALVES)
async def test_a_peer_that_vanishes_before_its_head_is_whole_leaves_nothing(
    autojump_clock: MockClock, head: bytes
) -> None:
    async with serving() as harness:
        client = harness.connect_raw()
        if head:
            await client.send_bytes(head)
        await trio.testing.wait_all_tasks_blocked()
        client.vanish()
        await harness.assert_nothing_left()


@pytest.mark.parametrize("head", HALVES)
async def test_a_peer_that_never_finishes_its_head_is_dropped(
    autojump_clock: MockClock, head: bytes
) -> None:
    async with serving() as harness:
        client = harness.connect_raw()
        if head:
            await client.send_bytes(head)
        await harness.assert_nothing_left()
        assert trio.current_time() == pytest.approx(5.0, abs=0.2)


async def test_a_peer_that_vanishes_in_any_phase_leaves_nothing(autojump_clock: MockClock) -> None:
    world = World(verify_delay=0.3, owner_delay=0.3)
    async with serving(world=world) as harness:
        for moment in (0.0, 0.1, 0.4, 0.8, 1.5, 2.5):
            client = await harness.connect()
            await client.send(type="auth", token="alice")
            await client.send(type="subscribe", topics=["t"])
            await client.send(type="forever", id=1)
            await client.send(type="slow", id=2, data={"ms": 5000})
            await trio.sleep(moment)
            client.vanish()
            await harness.assert_nothing_left()


async def test_a_peer_that_never_answers_the_close_is_dropped_after_a_second_before_ready(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.connect()
        client.answer_close = False
        await client.receive_until("hello")
        await client.send(type="auth", token="forged")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "token_invalid")
        await harness.assert_nothing_left()
        assert trio.current_time() == pytest.approx(1.0, abs=0.2)


async def test_a_peer_that_never_answers_the_close_is_dropped_after_five_seconds_when_ready(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        client.answer_close = False
        await trio.testing.wait_all_tasks_blocked()
        harness.server.disconnect(user="alice")
        _, closed = await client.receive_end()
        assert closed == Closed(4001, "disconnected")
        await harness.assert_nothing_left()
        assert trio.current_time() == pytest.approx(5.0, abs=0.2)


async def test_a_refusal_takes_a_second_even_if_the_peer_reads_nothing(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.receive_until("hello")
        await client.send(type="auth", token="forged")
        await harness.assert_nothing_left()
        assert trio.current_time() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /ws/1 HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"garbage\r\n\r\n", b"400"),
        (b"GET /ws/1 HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_is_no_upgrade_gets_an_http_answer(
    autojump_clock: MockClock, request_bytes: bytes, status: bytes
) -> None:
    async with serving() as harness:
        client = harness.connect_raw()
        await client.send_bytes(request_bytes)
        answer = bytes(await client.stream.receive_some(65536))
        assert answer.startswith(b"HTTP/1.1 " + status)
        client.vanish()
        await harness.assert_nothing_left()


async def test_an_unknown_path_is_refused_before_a_websocket_exists(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        with pytest.raises(Rejected) as rejected:
            await harness.connect("/elsewhere")
        assert rejected.value.status == 404


async def test_auth_in_the_segment_of_the_upgrade_is_not_lost(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = harness.connect_raw()
        sent: list[bytes] = []
        stream, client.stream = client.stream, _Collector(sent)  # type: ignore[assignment]
        with pytest.raises(NotImplementedError):
            await client.open("/ws/1")
        client.stream = stream
        await client.send_bytes(b"".join(sent) + masked(type="auth", token="alice"))
        while not client._accepted:
            await client._receive_some()
        assert (await client.receive())["type"] == "hello"
        assert (await client.receive())["type"] == "ready"


class _Collector:
    """Takes what is sent, and gives nothing."""

    def __init__(self, sent: list[bytes]) -> None:
        self._sent = sent

    async def send_all(self, data: bytes) -> None:
        self._sent.append(data)

    async def receive_some(self, max_bytes: int) -> Any:
        raise NotImplementedError


async def _still_served(harness: Harness, client: Client) -> None:
    """Others are untouched; and when all have gone, nothing is left."""
    assert (await client.request("echo", {"text": "here"}, id="still"))["type"] == "ack"
    await client.close()
    await harness.assert_nothing_left()
