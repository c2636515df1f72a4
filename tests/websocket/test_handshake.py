"""The opening handshake: heads of every kind, cut anywhere, and what they are answered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from protocol import SUBPROTOCOL
from tests.websocket.peer import ACCEPT, KEY, UPGRADE
from tests.websocket.test_frames import work
from trioserver.websocket.handshake import (
    ClientDisconnected,
    Head,
    RequestRejected,
    check_upgrade,
    linger,
    read_head,
    refuse,
    subprotocols,
    switching_protocols_response,
)

LIMIT = 16 * 1024
ANY = settings(max_examples=150, deadline=None)

GOOD: dict[str, str] = {
    "Host": "here",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(
    changes: dict[str, str | None] | None = None,
    *,
    line: str = "GET /ws HTTP/1.1",
    more: str = "",
) -> bytes:
    """An opening handshake with some headers changed or left out, and some lines more."""
    headers = {**GOOD, **(changes or {})}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"{line}\r\n{''.join(lines)}{more}\r\n".encode("latin-1")


async def read(*segments: bytes, limit: int = LIMIT) -> Head:
    """The head of what comes in these segments, and then no more."""
    client, server = trio.testing.memory_stream_one_way_pair()
    pending = [segment for segment in segments if segment]

    async def send_next() -> None:
        """One segment for each read."""
        await client.send_all(pending.pop(0)) if pending else await client.aclose()

    server.receive_some_hook = send_next
    return await read_head(server, max_bytes=limit)


async def head_of(data: bytes) -> Head:
    """The head, also where it is longer than a server would allow."""
    return await read(data, limit=len(data))


# ------------------------------------------------------------------------------ reading


async def test_a_head_is_read_and_what_is_behind_is_kept() -> None:
    head = await read(UPGRADE + b"rest")
    assert (head.method, head.target, head.http_version) == ("GET", "/ws", "1.1")
    assert head.header("host") == "here"
    assert head.header("nothing") is None
    assert head.trailing_data == b"rest"
    check_upgrade(head)


async def test_a_head_that_comes_byte_by_byte_is_the_same_head() -> None:
    assert await read(*(bytes((byte,)) for byte in UPGRADE)) == await read(UPGRADE)


@pytest.mark.parametrize("cut", range(len(UPGRADE)))
async def test_a_peer_that_leaves_in_the_middle_of_the_head_has_left(cut: int) -> None:
    with pytest.raises(ClientDisconnected):
        await read(UPGRADE[:cut])


async def test_a_transport_that_breaks_in_the_middle_of_the_head_is_a_peer_that_left() -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(UPGRADE[:20])
    client.receive_stream.close()
    client.send_stream.close()
    with pytest.raises(ClientDisconnected):
        await read_head(server, max_bytes=LIMIT)


async def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert (await read(UPGRADE, limit=len(UPGRADE))).method == "GET"
    with pytest.raises(RequestRejected) as raised:
        await read(UPGRADE, limit=len(UPGRADE) - 1)
    assert raised.value.status == 431


async def test_a_head_without_an_end_is_given_up_at_the_limit() -> None:
    with pytest.raises(RequestRejected) as raised:
        await read(*[b"x" * 1000] * 100)
    assert raised.value.status == 431


async def test_a_slow_head_ends_with_the_callers_deadline(autojump_clock: trio.abc.Clock) -> None:
    client, server = trio.testing.memory_stream_pair()

    async with trio.open_nursery() as nursery:

        async def slowly() -> None:
            for byte in UPGRADE:
                await client.send_all(bytes((byte,)))
                await trio.sleep(1)

        nursery.start_soon(slowly)
        with pytest.raises(trio.TooSlowError), trio.fail_after(10):
            await read_head(server, max_bytes=LIMIT)
        nursery.cancel_scope.cancel()


async def test_a_head_in_single_bytes_is_read_a_few_times_and_then_at_a_pace(
    autojump_clock: trio.abc.Clock,
) -> None:
    reads = 0

    class Counted(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            nonlocal reads
            reads += 1
            return bytes(await server.receive_some(max_bytes))

        async def aclose(self) -> None:
            raise NotImplementedError

    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for byte in UPGRADE:
                await client.send_all(bytes((byte,)))
                await trio.sleep(0.001)

        nursery.start_soon(send)
        assert (await read_head(Counted(), max_bytes=LIMIT)).path == "/ws"
    assert len(UPGRADE) > 120
    assert reads < 50


@pytest.mark.parametrize("name", ["X", "X{}"])
def test_a_bomb_of_headers_costs_no_more_than_its_length(name: str) -> None:
    """And more headers than anybody sends cost nothing, for they are refused unread."""

    async def parse(data: bytes) -> None:
        with suppress(RequestRejected):
            await head_of(data)

    def cost(lines: int) -> int:
        more = "".join(f"{name.format(number)}: \r\n" for number in range(lines))
        return work(lambda: trio.run(parse, request(more=more)))

    assert cost(120) < 2.3 * cost(60)
    assert cost(3000) < cost(60)


async def test_too_many_headers_are_refused_whatever_their_size() -> None:
    with pytest.raises(RequestRejected) as raised:
        await head_of(request(more="X: y\r\n" * 3000))
    assert raised.value.status == 431


async def test_many_headers_of_one_name_keep_their_order() -> None:
    head = await head_of(request(more="".join(f"X: {number}\r\n" for number in range(100))))
    assert head.headers["x"] == tuple(map(str, range(100)))


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /ws\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"GET /w\0s HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /w s HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /wś HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS to a port without it
        request({"Content-Length": "1"}, more="Content-Length: 2\r\n"),
        request({"Content-Length": "one"}),
        request({"Content-Length": "-1"}),
        request({"Transfer-Encoding": "chunked"}, more="Transfer-Encoding: chunked\r\n"),
    ],
)
async def test_what_is_no_request_is_a_bad_head(data: bytes) -> None:
    with pytest.raises(RequestRejected) as raised:
        await read(data)
    assert raised.value.status in (400, 501)


async def test_a_folded_header_is_one_line() -> None:
    head = await read(request(more="X: one\r\n two\r\n"))
    assert head.header("x") == "one two"


# ------------------------------------------------------------------------------ the target


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/ws/a", "/ws/a", {}),
        ("/ws/a?x=1&y=&x=2", "/ws/a", {"x": "1", "y": ""}),
        ("/ws/%61%2Fb?x=%26", "/ws/a/b", {"x": "&"}),
        ("/ws/%C3%9F", "/ws/ß", {}),
        ("/ws/%FF", "/ws/\ufffd", {}),
        ("/ws/%", "/ws/%", {}),
        ("//ws", "//ws", {}),
        ("*", "*", {}),
        ("here:80", "here:80", {}),
        ("http://here:80/ws?x=1", "/ws", {"x": "1"}),
        ("WS://here/ws", "/ws", {}),
        ("http://here", "/", {}),
        ("http://here?x=1", "/", {"x": "1"}),
        ("/ws?at=http://here/", "/ws", {"at": "http://here/"}),
        ("/ws?x=1" + "&a" * 127, "/ws", {"x": "1", "a": ""}),
        ("/ws?x=1" + "&a" * 128, "/ws", {}),  # refused, and not even read for the log
    ],
)
async def test_a_target_has_a_path_and_a_query(
    target: str, path: str, query: dict[str, str]
) -> None:
    head = await read(request(line=f"GET {target} HTTP/1.1"))
    assert head.path == path
    assert head.query == query


@pytest.mark.parametrize("path", ["/a%00b", "/%0a", "/%0D%0AX:", "/%7f", "/%FF", "/%ED%A0%80"])
async def test_a_path_of_control_characters_or_not_utf8_is_refused(path: str) -> None:
    head = await read(request(line=f"GET {path} HTTP/1.1"))
    with pytest.raises(RequestRejected) as raised:
        check_upgrade(head)
    assert raised.value.status == 400


# ------------------------------------------------------------------------------ judging


@pytest.mark.parametrize(
    "data",
    [
        request(),
        request({"Upgrade": "WebSocket", "Connection": "keep-alive, upgrade"}),
        request({"Upgrade": "h2c, websocket"}),
        request({"Connection": "keep-alive"}, more="Connection: Upgrade\r\n"),
        request().lower().replace(KEY.lower().encode(), KEY.encode())
        .replace(b"get /ws http", b"GET /ws HTTP"),
        request({"Host": ""}),
        request({"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}),
        request({"Sec-WebSocket-Extensions": '"'}),
        request({"Cookie": "\xff\xfe"}),
        request({"Content-Length": "0"}),
        request(line="GET /ws?" + "a&" * 127 + " HTTP/1.1"),
    ],
)  # fmt: skip
async def test_a_good_handshake_is_accepted(data: bytes) -> None:
    check_upgrade(await read(data))


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (request({"Upgrade": None}), 426, "WebSocket"),
        (request({"Upgrade": "h2c"}), 426, "WebSocket"),
        (request(more="Upgrade: websocket\r\n"), 400, "Upgrade"),
        (request({"Host": None}, line="GET /ws HTTP/1.0"), 400, "HTTP/1.1"),
        (request(line="GET /ws HTTP/1.0"), 400, "HTTP/1.1"),
        (request(line="POST /ws HTTP/1.1"), 405, "GET"),
        (request({"Connection": None}), 400, "Connection"),
        (request({"Connection": "keep-alive"}), 400, "Connection"),
        (request({"Content-Length": "5"}), 400, "body"),
        (request({"Content-Length": "00"}), 400, "body"),
        (request({"Content-Length": "0", "Transfer-Encoding": "chunked"}), 400, ""),
        (request(line="GET /ws?" + "a&" * 128 + " HTTP/1.1"), 400, "too many"),
        (request({"Sec-WebSocket-Protocol": "a," * 128}), 400, "too many"),
        (request({"Sec-WebSocket-Extensions": "a," * 128}), 400, "too many"),
        (request({"Transfer-Encoding": "chunked"}), 400, "body"),
        (request({"Content-Length": "5", "Transfer-Encoding": "chunked"}), 400, "body"),
        (request({"Sec-WebSocket-Version": None}), 426, "13"),
        (request({"Sec-WebSocket-Version": "8"}), 426, "13"),
        (request({"Sec-WebSocket-Version": "13, 8"}), 426, "13"),
        (request(more="Sec-WebSocket-Version: 13\r\n"), 426, "13"),
        (request({"Sec-WebSocket-Key": None}), 400, "Key"),
        (request({"Sec-WebSocket-Key": ""}), 400, "Key"),
        (request({"Sec-WebSocket-Key": "short"}), 400, "Key"),
        (request({"Sec-WebSocket-Key": "AAAA" * 6}), 400, "Key"),
        (request({"Sec-WebSocket-Key": KEY.replace("G", "\xe9")}), 400, "Key"),
        (request({"Sec-WebSocket-Key": KEY.replace("G", " ")}), 400, "Key"),
        (request(more=f"Sec-WebSocket-Key: {KEY}\r\n"), 400, "Key"),
    ],
)
async def test_a_bad_handshake_is_told_what_is_wrong(data: bytes, status: int, word: str) -> None:
    head = await read(data)
    with pytest.raises(RequestRejected) as raised:
        check_upgrade(head)
    assert raised.value.status == status
    assert word in raised.value.reason


async def test_subprotocols_are_those_that_are_well_formed() -> None:
    head = await read(
        request({"Sec-WebSocket-Protocol": "a,, b c, \xe9"}, more="Sec-WebSocket-Protocol: d\r\n")
    )
    assert subprotocols(head) == ("a", "d")


tokens = st.text("abcXYZ019.-_!", min_size=1, max_size=9)


@given(offered=st.lists(st.one_of(st.just(SUBPROTOCOL), tokens), max_size=8), target=tokens)
@ANY
def test_the_answer_is_what_a_client_of_wsproto_wants(offered: list[str], target: str) -> None:
    client = WSConnection(ConnectionType.CLIENT)
    asked = client.send(Request(host="here", target=f"/{target}", subprotocols=offered))
    head = trio.run(read, asked)
    check_upgrade(head)
    chosen = SUBPROTOCOL if SUBPROTOCOL in subprotocols(head) else None
    client.receive_data(switching_protocols_response(head, chosen))
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == chosen
    assert (SUBPROTOCOL in offered) == (chosen is not None)


def test_the_answer_is_the_one_of_the_rfc() -> None:
    answer = switching_protocols_response(trio.run(read, UPGRADE), None)
    assert f"\r\nSec-WebSocket-Accept: {ACCEPT}\r\n".encode() in answer


# ------------------------------------------------------------------------------ refusing


async def refusal_of(refused: RequestRejected) -> tuple[h11.Response, bytes]:
    """What a client makes of it."""
    client, server = trio.testing.memory_stream_pair()
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "here")]))
    parser.send(h11.EndOfMessage())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse, server, refused)
        body = b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await client.receive_some()))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                break
        assert await client.receive_some() == b""  # nothing more comes
        await client.send_eof()
    return response, body


@pytest.mark.parametrize("status", [400, 404, 405, 426, 431, 501, 503])
async def test_a_refusal_is_a_response_that_a_client_understands(status: int) -> None:
    response, body = await refusal_of(RequestRejected(status, "Because."))
    assert response.status_code == status
    assert response.reason
    assert body == b"Because.\n"
    assert (b"connection", b"close") in list(response.headers)


@pytest.mark.parametrize("changes", [{"Upgrade": None}, {"Sec-WebSocket-Version": "8"}])
async def test_an_upgrade_that_is_required_is_named(changes: dict[str, str | None]) -> None:
    with pytest.raises(RequestRejected) as raised:
        check_upgrade(await read(request(changes)))
    response, _ = await refusal_of(raised.value)
    headers = dict(response.headers)
    assert response.status_code == 426
    assert headers[b"upgrade"] == b"websocket"
    assert headers[b"connection"] == b"close, Upgrade"


@pytest.mark.parametrize("behaviour", ["silent", "sending", "gone"])
async def test_a_refusal_is_over_soon_whatever_the_peer_does(
    behaviour: str, autojump_clock: trio.abc.Clock
) -> None:
    client, server = trio.testing.memory_stream_pair()

    async def misbehave() -> None:
        if behaviour == "gone":
            await client.aclose()
        while behaviour == "sending":
            await client.send_all(b"more and more")
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(misbehave)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1.5):
            await refuse(server, RequestRejected(400, "No."))
        nursery.cancel_scope.cancel()


async def test_a_refusal_over_a_transport_that_takes_nothing_is_over_soon(
    autojump_clock: trio.abc.Clock,
) -> None:
    _client, server = trio.testing.lockstep_stream_pair()
    with trio.fail_after(1.5):
        await refuse(server, RequestRejected(400, "No."))


async def test_lingering_reads_to_the_end() -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"a body that nobody reads")
    await client.send_eof()
    await linger(server)
    assert await client.receive_some() == b""


@pytest.mark.parametrize("make", [repr, str])
async def test_secrets_of_a_head_are_not_in_its_repr(make: Callable[[Head], str]) -> None:
    head = await read(request({"Authorization": "secret"}, line="GET /?token=secret HTTP/1.1"))
    assert "secret" not in make(head)
