"""ASGI applications that misbehave, and clients that do."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from structlog.testing import capture_logs
from trio.testing import memory_stream_pair

from tests.support.databases import eventually
from tests.support.http import Http, NoAnswer, Site, site
from tests.support.patience import PATIENCE
from trioserver import Application, Config, HttpConfig

START = {"type": "http.response.start", "status": 200, "headers": []}
LENGTH = {**START, "headers": [(b"content-length", b"5")]}
BODY = {"type": "http.response.body", "body": b"hello"}


def app(asgi: Any) -> Application:
    return Application(http=http_only(asgi))


def http_only(asgi: Any) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asgi(scope, receive, send)

    return application


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


async def no_start(scope: Any, receive: Any, send: Any) -> None:
    await send(BODY)


async def injected(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": [(b"x", b"a\r\nSet-Cookie: evil=1")]})


async def text_headers(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": [("x", "a")]})


async def unknown_message(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})


async def group(scope: Any, receive: Any, send: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nothing, 1, 2, 3)
        raise RuntimeError("secret detail")


@pytest.mark.parametrize(
    "asgi", [nothing, no_start, injected, text_headers, unknown_message, group]
)
async def test_no_answer_or_a_bad_one_is_a_500(asgi: Any) -> None:
    with capture_logs() as logs:
        async with site(app(asgi)) as place:
            http = await place.open()
            answer = await http.get("/")
            assert answer.status == 500
            assert "set-cookie" not in answer.headers
            assert "secret" not in answer.text
            assert await http.is_closed()
    assert "http_application_failed" in [entry["event"] for entry in logs]


async def too_short(scope: Any, receive: Any, send: Any) -> None:
    await send(LENGTH)
    await send({**BODY, "body": b"hell"})


async def too_long(scope: Any, receive: Any, send: Any) -> None:
    await send(LENGTH)
    await send({**BODY, "body": b"hello, you"})


async def unfinished(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({**BODY, "more_body": True})


@pytest.mark.parametrize("asgi", [too_short, too_long, unfinished])
async def test_an_answer_that_is_not_what_it_said_breaks_off(asgi: Any) -> None:
    with capture_logs():
        async with site(app(asgi)) as place:
            with pytest.raises(NoAnswer):
                await (await place.open()).get("/")
            assert (await (await place.open()).get("/healthz")).status == 200


async def reads_nothing(scope: Any, receive: Any, send: Any) -> None:
    await trio.sleep_forever()


async def test_a_body_that_nobody_takes_is_given_up() -> None:
    config = Config(port=0, http=HttpConfig(response_timeout=0.2))
    with capture_logs():
        async with site(app(reads_nothing), config) as place:
            http = await place.open()
            request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
            await http.stream.send_all(request + bytes(2_000_000))
            assert (await http.raw(b"")).status == 503
            await trio.aclose_forcefully(http.stream)
            await eventually(lambda: place.server.statistics().open == 0)


async def test_after_its_answer_an_application_hears_of_the_end() -> None:
    heard: list[str] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        await send(LENGTH)
        await send(BODY)
        heard.append((await receive())["type"])
        heard.append((await receive())["type"])

    async with site(app(asgi)) as place:
        http = await place.open()
        assert (await http.get("/")).text == "hello"
        await eventually(lambda: len(heard) == 3)
        assert heard == ["http.request", "http.disconnect", "http.disconnect"]
        assert (await http.get("/")).text == "hello"


async def test_an_application_that_waits_hears_that_the_client_has_left() -> None:
    left = trio.Event()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    with capture_logs():
        async with site(app(asgi)) as place:
            http = await place.open()
            await http.send("GET", "/")
            await eventually(lambda: place.server.statistics().http == 1)
            await http.stream.aclose()
            with trio.fail_after(PATIENCE):
                await left.wait()
            await eventually(lambda: place.server.statistics().open == 0)


async def good(scope: Any, receive: Any, send: Any) -> None:
    await trio.sleep(0.01)
    await send(LENGTH)
    await send(BODY)


async def test_a_client_that_says_it_sends_no_more_is_answered() -> None:
    async with site(app(good)) as place:
        http = await place.open()
        await http.send("GET", "/")
        assert isinstance(http.stream, trio.SocketStream)
        await http.stream.send_eof()
        assert (await http.receive()).text == "hello"
        assert await http.is_closed()


async def test_a_client_that_leaves_in_the_middle_of_a_head_leaves_nothing() -> None:
    async with site(app(good)) as place:
        http = await place.open()
        assert (await http.get("/")).text == "hello"
        await http.stream.send_all(b"GET / HT")
        await http.stream.aclose()
        await eventually(lambda: place.server.statistics().open == 0)


async def test_http_in_memory() -> None:
    async with site(app(good)) as place, trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(place.server.serve_stream, theirs)
        http = Http(ours)
        assert (await http.get("/")).text == "hello"
        assert (await http.get("/healthz")).status == 200
        nursery.cancel_scope.cancel()


async def early(scope: Any, receive: Any, send: Any) -> None:
    await send({**LENGTH, "status": 403})
    await send(BODY)


async def test_an_early_answer_to_an_upload_arrives_over_tls(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.create_default_context()
    certificate = authority.issue_cert("localhost")
    authority.configure_trust(context)
    (tmp_path / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    config = Config(port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    async with site(app(early), config) as place:
        http = await place.open(context)
        answer = await http.request("POST", "/", body=bytes(1_000_000))
        assert (answer.status, answer.text) == (403, "hello")


async def test_many_clients_at_once_with_all_manners_leave_nothing() -> None:
    async def download(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(50):
            await send({**BODY, "body": bytes(65536), "more_body": True})
        await send(BODY)

    with capture_logs():
        async with site(app(download)) as place:
            async with trio.open_nursery() as nursery:
                for n in range(40):
                    nursery.start_soon(misbehave, place, n)
            await eventually(lambda: place.server.statistics().open == 0)
            statistics = place.server.statistics()
            assert (statistics.http, statistics.unauthenticated) == (0, 0)


async def misbehave(place: Site, n: int) -> None:
    http = await place.open()
    match n % 5:
        case 0:
            assert len((await http.get("/")).body) > 3_000_000
        case 1:
            await http.send("GET", "/")
        case 2:
            await http.send("GET", "/")
            await http.receive_bytes()
        case 3:
            await http.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        case 4:
            await http.stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /")
    await trio.aclose_forcefully(http.stream)


async def test_a_send_that_the_application_cancels_breaks_the_response_off() -> None:
    """The rest of it would otherwise follow a gap, and be read as another response."""

    cancelled = trio.Event()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        size = 50_000_000
        await send({**START, "headers": [(b"content-length", b"%d" % (size + 5))]})
        with trio.move_on_after(0.1):
            await send({**BODY, "body": bytes(size), "more_body": True})
        cancelled.set()
        await send(BODY)

    with capture_logs():
        async with site(app(asgi)) as place:
            http = await place.open()
            await http.send("GET", "/")
            await cancelled.wait()
            with pytest.raises(NoAnswer):
                await http.receive()
