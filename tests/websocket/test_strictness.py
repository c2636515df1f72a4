"""Heads that two parsers could read differently, on real connections and one by one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from tests.support.http import Http, site
from trioserver import Application
from trioserver.websocket.handshake import RequestRejected, read_head
from trioserver.websocket.strictness import check_head


class Seen:
    """An ASGI application that keeps what reaches it, and knows nothing of lifespans."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def head(*lines: str, start: str = "POST /x HTTP/1.1", host: str = "Host: x\r\n") -> bytes:
    return f"{start}\r\n{host}{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

BAD = {
    "both lengths": head("Content-Length: 5", "Transfer-Encoding: chunked"),
    "both, the other way": head("Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": head("Content-Length: 5", "Content-Length: 6"),
    "two that agree": head("Content-Length: 5", "content-length: 5"),
    "a list of lengths": head("Content-Length: 5, 5"),
    "a signed length": head("Content-Length: +5"),
    "a negative length": head("Content-Length: -1"),
    "a hexadecimal length": head("Content-Length: 0x5"),
    "an empty length": head("Content-Length:"),
    "a length that overflows": head("Content-Length: " + "9" * 30),
    "two codings": head("Transfer-Encoding: gzip, chunked"),
    "two headers of codings": head("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "another coding": head("Transfer-Encoding: xchunked"),
    "a tab before the coding": head("Transfer-Encoding:\x0bchunked"),
    "a coding of HTTP/1.0": head("Transfer-Encoding: chunked", start="POST / HTTP/1.0"),
    "a folded header": head("X: a", " b"),
    "a folded coding": head("Transfer-Encoding:", "\tchunked"),
    "a space before the colon": head("Content-Length : 5"),
    "a header that begins with a space": head(" Content-Length: 5"),
    "a header without a colon": head("nonsense"),
    "two hosts": head("Host: y"),
    "no host": head(host=""),
    "two upgrades": head("Upgrade: websocket", "Upgrade: websocket"),
    "an upgrade to two": head("Upgrade: h2c, websocket"),
    "two offers": head("Upgrade: h2c", "Upgrade: TLS/1.2"),
    "settings of HTTP/2, twice": head("HTTP2-Settings: AA", "HTTP2-Settings: AA"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "a head that ends with line feeds": b"GET / HTTP/1.1\r\nHost: x\n\n" + SMUGGLED,
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "a control character": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x08b\r\n\r\n",
    "an empty line first": b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": head(start="GET x HTTP/1.1"),
    "a star that is no OPTIONS": head(start="GET * HTTP/1.1"),
    "another host in the URL": head(start="GET http://other/ HTTP/1.1"),
    "CONNECT": head(start="CONNECT other:443 HTTP/1.1"),
    "two spaces": head(start="GET  / HTTP/1.1"),
    "no version": b"GET /\r\n\r\n",
    "129 headers": head(*(f"X-{number}: y" for number in range(128))),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("earlier", [0, 1], ids=["first", "second"])
async def test_a_head_that_could_be_read_in_two_ways_reaches_nobody(
    data: bytes, earlier: int
) -> None:
    seen = Seen()
    async with site(Application(http=seen)) as place:
        http = await place.open()
        for _ in range(earlier):
            assert (await http.get("/first")).text == "ok"
        answer = await http.raw(data + (b"" if SMUGGLED in data else SMUGGLED))
        assert answer.status in (400, 405, 431, 501, 505)
        assert await http.is_closed()
        assert len(seen.scopes) == earlier


GOOD = {
    "GET": head(start="GET / HTTP/1.1"),
    "HTTP/1.0": head(start="GET / HTTP/1.0", host=""),
    "a length": head("Content-Length: 0"),
    "a coding": head("Transfer-Encoding: Chunked") + b"0\r\n\r\n",
    "OPTIONS": head(start="OPTIONS * HTTP/1.1"),
    "a URL": head(start="GET http://X/path HTTP/1.1"),
    "not ASCII": head("X: \xe4"),
    "a tab in a value": head("X: a\tb"),
    "h2c": head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
    "settings of HTTP/2": head("HTTP2-Settings: AA"),
    "an offer of TLS": head("Connection: Upgrade", "Upgrade: TLS/1.2"),
    "128 headers": head(*(f"X-{number}: y" for number in range(127))),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
async def test_a_good_head_reaches_the_application(data: bytes) -> None:
    seen = Seen()
    async with site(Application(http=seen)) as place:
        assert (await (await place.open()).raw(data)).text == "ok"
        assert seen.scopes[0]["path"] in ("/", "/x", "*", "/path")


@given(st.binary(max_size=200))
async def test_whatever_comes_is_a_head_or_refused(data: bytes) -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n" + data + b"\r\n\r\n")
    with suppress(RequestRejected):
        head = await read_head(theirs, max_bytes=10_000)
        check_head(head)
        assert head.method == "GET"
        assert b"\n\n" not in head.raw


async def test_an_upgrade_that_is_smuggled_into_http_never_becomes_a_websocket_scope() -> None:
    seen = Seen()
    async with site(Application(http=seen)) as place:
        http = Http((await place.open()).stream)
        assert (await http.get("/first")).text == "ok"
        answer = await http.raw(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert answer.status == 404
        assert [scope["type"] for scope in seen.scopes] == ["http"]
