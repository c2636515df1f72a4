"""HTTP on real sockets: keep-alive, uploads, downloads, aborts, stalls, drain."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from tests.support.app import World, make_application, wall_clock
from tests.support.client import Client
from tests.support.databases import eventually
from tests.support.http import Http, NoAnswer, Site, site
from tests.support.patience import PATIENCE
from trioserver import Application, Config, HttpConfig, LimitsConfig, ShutdownConfig

PIECE = b"x" * 65536
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: server\r\nContent-Length: 100\r\n\r\n"


class Notes:
    """What the application has seen."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.event = trio.Event()


def make_asgi(notes: Notes) -> Starlette:
    async def upload(request: Request) -> Response:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return PlainTextResponse(str(size))

    async def ignore(request: Request) -> Response:
        return PlainTextResponse("not read", 403)

    class Download:
        """Never asks whether anybody is there: it learns it from `send`."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            pieces = int(scope["query_string"].decode() or 320)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                for _ in range(pieces):
                    await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except OSError:
                notes.seen.append("client gone")
                raise
            finally:
                notes.event.set()

    async def whole(request: Request) -> Response:
        return Response(b"y" * 20_000_000)

    async def fail(request: Request) -> Response:
        raise RuntimeError("secret detail")

    async def fail_midway(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"something"
            raise RuntimeError("secret detail")

        return StreamingResponse(pieces())

    async def stuck(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async def later(request: Request) -> Response:
        async def task() -> None:
            await notes.event.wait()
            notes.seen.append("later")

        return PlainTextResponse("now", background=BackgroundTask(task))

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello", headers={"X-Path": request.url.path})

    return Starlette(
        routes=[
            Route("/upload", upload, methods=["POST"]),
            Route("/ignore", ignore, methods=["POST"]),
            Route("/download", Download()),
            Route("/whole", whole),
            Route("/fail", fail),
            Route("/fail_midway", fail_midway),
            Route("/stuck", stuck),
            Route("/later", later),
            Route("/hello", hello),
        ]
    )


@pytest.fixture
def notes() -> Notes:
    return Notes()


def app(notes: Notes, world: World | None = None) -> Application:
    application = Application(http=make_asgi(notes))
    application.include(make_application(world or World()))
    return application


async def ready(client: Client) -> None:
    await client.open("/ws/1")
    await client.authenticate("alice")


async def test_http_and_websocket_share_a_plain_port(notes: Notes) -> None:
    async with site(app(notes), clock=wall_clock) as place:
        http = await place.open()
        assert (await http.get("/hello")).text == "hello"
        client = Client((await place.open()).stream)
        await ready(client)
        await client.send(type="echo", id=1, data={"text": "hi"})
        assert (await client.receive())["type"] == "ack"
        assert (await http.get("/healthz")).json == {"status": "ok"}


async def test_http_and_websocket_share_a_tls_port(notes: Notes, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.create_default_context()
    certificate = authority.issue_cert("localhost")
    authority.configure_trust(context)
    (tmp_path / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    config = Config(port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    async with site(app(notes), config, clock=wall_clock) as place:
        http = await place.open(context)
        assert (await http.get("/healthz")).json == {"status": "ok"}
        assert (await http.request("POST", "/upload", body=PIECE * 20)).text == str(65536 * 20)
        assert len((await http.get("/whole")).body) == 20_000_000
        last = await http.request("GET", "/hello", headers={"Connection": "close"})
        assert last.text == "hello"
        assert await http.is_closed()  # with TLS's own farewell: an abrupt end would raise
        client = Client((await place.open(context)).stream)
        await ready(client)


async def test_a_connection_is_kept_for_further_requests(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        for n in range(20):
            answer = await http.get(f"/hello?n={n}")
            assert (answer.status, answer.text) == (200, "hello")
            assert "server" not in answer.headers
        assert place.server.statistics().open == 1
        assert place.server.statistics().unauthenticated == 0


async def test_a_connection_ends_after_a_thousand_requests(notes: Notes) -> None:
    config = Config(port=0, limits=LimitsConfig(requests_per_second=10_000))
    async with site(app(notes), config) as place:
        http = await place.open()
        for _ in range(999):
            assert "connection" not in (await http.get("/healthz")).headers
        assert (await http.get("/healthz")).headers["connection"] == "close"
        assert await http.is_closed()


async def test_requests_in_one_segment_are_answered_in_order(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        post = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
        chunked = (
            b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        )
        last = b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        await http.stream.send_all(post + chunked + post + last)
        received = b""
        while data := await http.receive_bytes():
            received += data
        bodies = [part.rpartition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 ")[1:]]
        assert bodies == [b"5", b"3", b"5", b"hello"]


async def test_a_body_that_comes_byte_by_byte_is_whole(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        request = (
            b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        )
        for n in range(len(request) - 1):
            await http.stream.send_all(request[n : n + 1])
        assert (await http.raw(request[-1:])).text == "5"
        assert (await http.get("/hello")).text == "hello"


async def test_a_large_upload_and_a_large_download(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        answer = await http.request("POST", "/upload", body=b"z" * 5_000_000)
        assert answer.text == "5000000"
        assert len((await http.get("/download")).body) == 320 * 65536
        assert len((await http.get("/whole")).body) == 20_000_000


async def test_a_client_that_waits_for_100_is_told_to_continue(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        await http.stream.send_all(
            b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await http.receive_bytes()).startswith(b"HTTP/1.1 100 ")
        assert (await http.raw(b"abc")).text == "3"


async def test_an_answer_to_an_upload_that_nobody_reads_arrives(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        answer = await http.request("POST", "/ignore", body=b"z" * 1_000_000)
        assert (answer.status, answer.text) == (403, "not read")
        assert answer.headers["connection"] == "close"


async def test_a_body_that_is_announced_too_large_is_refused(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(max_body_bytes=1000))
    async with site(app(notes), config) as place:
        assert (await (await place.open()).request("POST", "/upload", body=b"z" * 1000)).text
        answer = await (await place.open()).request("POST", "/upload", body=b"z" * 1001)
        assert answer.status == 413


async def test_a_chunked_body_that_grows_too_large_is_refused(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(max_body_bytes=1000))
    async with site(app(notes), config) as place:
        http = await place.open()
        headers = {"Transfer-Encoding": "chunked"}
        answer = await http.request("POST", "/upload", headers=headers, body=b"z" * 1001)
        assert answer.status == 413
        assert await http.is_closed()


async def test_a_chunked_body_that_is_malformed_is_refused(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        answer = await http.raw(
            b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
        )
        assert answer.status == 400
        assert await http.is_closed()


async def test_a_body_that_stops_coming_is_given_up(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(body_timeout=0.1))
    async with site(app(notes), config) as place:
        http = await place.open()
        answer = await http.raw(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        assert answer.status == 408
        assert await http.is_closed()


async def test_a_client_that_aborts_an_upload_leaves_nothing(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        await http.stream.send_all(
            b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + PIECE
        )
        await http.stream.aclose()
        await eventually(lambda: place.server.statistics().open == 0)


async def test_a_client_that_aborts_a_download_ends_it(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        await http.send("GET", "/download?1000000")
        await http.receive_bytes()
        await http.stream.aclose()
        with trio.fail_after(PATIENCE):
            await notes.event.wait()
        assert notes.seen == ["client gone"]
        await eventually(lambda: place.server.statistics().open == 0)


async def test_an_application_that_fails_answers_500_without_detail(notes: Notes) -> None:
    with capture_logs() as logs:
        async with site(app(notes), clock=wall_clock) as place:
            client = Client((await place.open()).stream)
            await ready(client)
            http = await place.open()
            answer = await http.get("/fail")
            assert answer.status == 500
            assert "secret" not in answer.text
            await client.send(type="echo", id=1, data={"text": "hi"})
            assert (await client.receive())["type"] == "ack"
    assert [entry["path"] for entry in logs if entry["event"] == "http_application_failed"] == [
        "/fail"
    ]


async def test_an_answer_that_breaks_off_looks_broken_off(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        with pytest.raises(NoAnswer):
            await http.get("/fail_midway")
        assert (await (await place.open()).get("/hello")).text == "hello"


async def test_an_application_that_never_answers_is_cut_short(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(response_timeout=0.1))
    async with site(app(notes), config) as place:
        http = await place.open()
        assert (await http.get("/stuck")).status == 503
        assert await http.is_closed()


async def test_work_behind_an_answer_holds_up_no_request(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        assert (await http.get("/later")).text == "now"
        assert (await http.get("/hello")).text == "hello"
        assert notes.seen == []
        notes.event.set()
        await eventually(lambda: notes.seen == ["later"])


async def test_an_idle_connection_is_closed_after_a_while(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(keep_alive_timeout=0.1))
    async with site(app(notes), config) as place:
        http = await place.open()
        assert (await http.get("/hello")).text == "hello"
        assert await http.is_closed()


@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_head_that_trickles_in_is_given_up(notes: Notes, earlier: int) -> None:
    config = Config(port=0, limits=LimitsConfig(head_timeout=0.3))
    async with site(app(notes), config) as place:
        http = await place.open()
        for _ in range(earlier):
            await http.get("/hello")
        begun = trio.current_time()
        closed = False
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            while not closed:
                await http.stream.send_all(b"x")
                with trio.move_on_after(0.05):
                    closed = await http.is_closed()
        assert 0.25 < trio.current_time() - begun < 3


@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_head_that_is_too_large_is_refused(notes: Notes, earlier: int) -> None:
    config = Config(port=0, limits=LimitsConfig(max_head_bytes=1000))
    async with site(app(notes), config) as place:
        http = await place.open()
        for _ in range(earlier):
            await http.get("/hello")
        answer = await http.request("GET", "/hello", headers={"X-Large": "x" * 1000})
        assert answer.status == 431
        assert await http.is_closed()


async def test_a_later_request_on_a_connection_may_become_a_websocket(notes: Notes) -> None:
    """As behind a proxy that keeps its connections."""
    world = World()
    async with site(app(notes, world), clock=wall_clock) as place:
        http = await place.open()
        assert (await http.get("/hello")).text == "hello"
        client = Client(http.stream)
        await client.open("/ws/1")
        assert place.server.statistics().unauthenticated == 1
        await client.authenticate("alice")
        await client.send(type="echo", id=1, data={"text": "hi"})
        assert (await client.receive())["type"] == "ack"
        statistics = place.server.statistics()
        assert (statistics.open, statistics.ready) == (1, 1)


async def test_a_later_request_is_judged_as_strictly_as_the_first(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        assert (await http.get("/hello")).text == "hello"
        answer = await http.raw(
            b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert answer.status == 400
        assert await http.is_closed()


async def test_an_old_client_is_answered_and_closed(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        assert (await http.raw(b"GET /hello HTTP/1.0\r\n\r\n")).text == "hello"
        assert await http.is_closed()


async def test_a_url_as_the_target_reaches_its_path(notes: Notes) -> None:
    async with site(app(notes)) as place:
        http = await place.open()
        answer = await http.raw(b"GET http://host.test/hello HTTP/1.1\r\nHost: host.test\r\n\r\n")
        assert answer.headers["x-path"] == "/hello"


async def test_at_the_cap_an_idle_connection_is_evicted(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(max_connections=2))
    async with site(app(notes), config) as place:
        busy, idle = await place.open(), await place.open()
        await busy.send("GET", "/stuck")
        await idle.get("/hello")
        assert (await (await place.open()).get("/hello")).text == "hello"
        assert await idle.is_closed()
        with trio.move_on_after(0.05) as scope:
            await busy.receive_bytes()
        assert scope.cancelled_caught


async def test_where_websockets_fill_the_server_http_is_told_so(notes: Notes) -> None:
    config = Config(port=0, limits=LimitsConfig(max_connections=1))
    async with site(app(notes), config, clock=wall_clock) as place:
        client = Client((await place.open()).stream)
        await client.open("/ws/1")
        await client.authenticate()
        assert (await (await place.open()).get("/hello")).status == 503
        http = await place.open()
        assert (await http.get("/healthz")).status == 200
        assert (await http.get("/readyz")).json["failed"] == ["full"]
        assert place.server.statistics().http == 1


async def test_one_address_does_not_cut_anothers_upload(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(max_connections=10))
    async with site(app(notes), config) as place, trio.open_nursery() as nursery:

        def connect(remote: str) -> Http:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(partial(place.server.serve_stream, theirs, remote=remote))
            return Http(ours)

        upload = connect("192.0.2.1:1")
        await upload.stream.send_all(UPLOAD + b"x" * 50)
        await wait_all_tasks_blocked()
        for n in range(100):
            await connect(f"198.51.100.1:{n}").stream.send_all(UPLOAD)
            await wait_all_tasks_blocked()
        assert place.server.statistics().http == 10
        assert place.server.statistics().evicted == 91
        await upload.stream.send_all(b"x" * 50)
        assert (await upload.receive_bytes()).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()


async def test_requests_of_one_address_have_a_rate_on_a_kept_connection_too(
    notes: Notes,
) -> None:
    config = Config(port=0, limits=LimitsConfig(requests_per_second=1))
    async with site(app(notes), config) as place:
        http = await place.open()
        for _ in range(10):
            assert (await http.get("/hello")).status == 200
        for refused in (http, await place.open()):
            answer = await refused.get("/hello")
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert place.server.statistics().rejected == {"request_rate": 2}


async def test_silent_connections_do_not_push_out_a_download(notes: Notes) -> None:
    config = Config(port=0, limits=LimitsConfig(max_unauthenticated=2))
    async with site(app(notes), config) as place:
        http = await place.open()
        await http.send("GET", "/download")
        first = await http.receive_bytes()
        silent = [await place.open() for _ in range(5)]
        await eventually(lambda: place.server.statistics().accepted == 6)
        rest = 0
        while rest + len(first) < 320 * 65536:
            rest += len(await http.receive_bytes())
        assert len(silent) == 5


# ------------------------------------------------------------------------------ drain


DRAIN = ShutdownConfig(drain_period=0.5)


async def stalled(place: Site) -> Http:
    """A client that has asked for much and reads nothing."""
    http = await place.open()
    assert isinstance(http.stream, trio.SocketStream)
    http.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await http.send("GET", "/whole")
    return http


async def test_a_stalled_reader_is_given_up(notes: Notes) -> None:
    config = Config(port=0, http=HttpConfig(send_timeout=0.2))
    async with site(app(notes), config) as place:
        _http = await stalled(place)
        await eventually(lambda: place.server.statistics().open == 1)
        await eventually(lambda: place.server.statistics().open == 0)


async def test_a_stalled_reader_does_not_hold_up_the_drain(notes: Notes) -> None:
    async with site(app(notes), Config(port=0, shutdown=DRAIN)) as place:
        _http = await stalled(place)
        await eventually(lambda: place.server.statistics().open == 1)
        begun = trio.current_time()
        await place.server.drain()
        assert trio.current_time() - begun < 2


async def test_draining_ends_idle_connections_at_once(notes: Notes) -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=60))
    async with site(app(notes), config) as place:
        http = await place.open()
        await http.get("/hello")
        with trio.fail_after(PATIENCE / 2):
            await place.server.drain()
        assert await http.is_closed()


async def test_draining_lets_an_answer_end(notes: Notes) -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=60))
    async with site(app(notes), config) as place:
        http = await place.open()
        await http.stream.send_all(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        await eventually(lambda: place.server.statistics().open == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.server.drain)
            await eventually(lambda: place.server.statistics().draining)
            await wait_all_tasks_blocked()
            answer = await http.raw(b"abc")
            assert (answer.text, answer.headers["connection"]) == ("3", "close")


async def test_cancelling_the_server_ends_a_stalled_reader_at_once(notes: Notes) -> None:
    begun = trio.current_time()
    async with site(app(notes)) as place:
        _http = await stalled(place)
        await eventually(lambda: place.server.statistics().open == 1)
    assert trio.current_time() - begun < 5


# ------------------------------------------------------------------------------ small pieces


class Counting:
    """An ASGI application that counts the events of a body."""

    def __init__(self) -> None:
        self.events = 0
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            event = await receive()
            self.events += 1
            self.body += event.get("body", b"")
            more = event.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def test_chunks_of_one_byte_arrive_together() -> None:
    """120 KB of them took 170 ms of everybody's time, before anybody was authenticated."""
    counting = Counting()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with site(Application(http=counting)) as place:
        http = await place.open()
        answer = await http.raw(head + b"1\r\nx\r\n" * 900 + b"0\r\n\r\n")
    assert answer.text == "ok"
    assert counting.body == b"x" * 900
    assert counting.events < 20


async def test_an_application_gets_no_event_without_a_part_of_the_body() -> None:
    counting = Counting()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with site(Application(http=counting)) as place:
        http = await place.open()
        counting.events = 0  # there was one of the lifespan
        body = b"3\r\nabc\r\n0\r\nTrailer: something\r\n\r\n"
        for byte in [head, *(bytes([byte]) for byte in body[:-1])]:
            await http.stream.send_all(byte)
            await wait_all_tasks_blocked()
        assert (await http.raw(body[-1:])).text == "ok"
    assert counting.body == b"abc"
    assert counting.events <= len(b"abc") + 1


@pytest.mark.parametrize(("size", "status"), [(1, 400), (8, 400), (20, 200)])
async def test_a_body_has_a_bound_of_chunks_for_its_size(size: int, status: int) -> None:
    counting = Counting()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    async with site(Application(http=counting)) as place:
        http = await place.open()
        assert (await http.raw(head + chunk * 3000 + b"0\r\n\r\n")).status == status
