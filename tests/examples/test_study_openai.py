"""The responder that asks an endpoint: a real HTTP server that streams, fails, hangs and lies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import structlog.testing
import trio
import trio.lowlevel

from protocol import Refusal
from tests.support.patience import PATIENCE
from tests.support.running import running
from trioserver import JWTAuth, Server
from trioserver.auth import make_secret, make_token
from trioserver.client import Client, RequestRejectedError, connect
from trioserver.examples import study_coach
from trioserver.examples.study.library import Passage
from trioserver.examples.study.openai import MAX_ANSWER_BYTES, Endpoint, OpenAIResponder

SECRET = make_secret()
KEY = "sk-the-key-of-these-tests"

Answer: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(text: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"delta": delta, **more}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@attrs.define
class Upstream:
    """The endpoint. What it was asked, and whether its last client has gone."""

    url: str = ""
    heads: list[str] = attrs.field(factory=list)
    bodies: list[Any] = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, answer: Answer, stream: trio.SocketStream) -> None:
        data = b""
        async with stream:
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some()
            head, _, body = data.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            (length,) = [
                int(line.partition(":")[2])
                for line in head.decode().lower().split("\r\n")
                if line.startswith("content-length:")
            ]
            while len(body) < length:
                body += await stream.receive_some()
            self.bodies.append(json.loads(body))
            try:
                await answer(stream)
                await trio.lowlevel.checkpoint()
            except trio.BrokenResourceError:
                pass
            self.left.set()


@asynccontextmanager
async def asking(
    answer: Answer, tmp_path: Path, **options: Any
) -> AsyncIterator[tuple[Upstream, Client, Server]]:
    """A coach with one text that asks this endpoint, and alice, who is connected to it."""
    upstream = Upstream()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, partial(upstream.serve, answer), 0, host="127.0.0.1")
        )
        upstream.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1/"
        responder = OpenAIResponder(Endpoint(url=upstream.url, key=KEY, **options))
        auth = JWTAuth(secret=SECRET)
        application = study_coach.make(str(tmp_path / "coach.db"), auth=auth, responder=responder)
        async with running(application=application) as server:
            library = application.state["coach"].library
            await library.add("alice", "notes.md", ["Leaves are green.", "Stars shine."])
            url = server.addresses[0].url + study_coach.PATH
            with trio.fail_after(PATIENCE):
                async with connect(url, token=make_token(SECRET, subject="alice")) as client:
                    yield upstream, client, server
        nursery.cancel_scope.cancel()


async def ask(client: Client, text: str = "Why are leaves green?") -> list[dict[str, Any]]:
    async with client.stream("ask", {"text": text}) as chunks:
        return [chunk async for chunk in chunks]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["text"] for chunk in chunks if chunk["kind"] == "text")


async def test_the_words_are_passed_on_as_they_come(tmp_path: Path) -> None:
    go_on = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + b": a comment\n\n" + event(role="assistant") + event("Be"))
        await go_on.wait()  # and cut anywhere, even inside of a letter
        rest = event("cause of Grün", finish_reason=None) + event(finish_reason="stop") + DONE
        for byte in rest.replace(b"\n", b"\r\n"):
            await stream.send_all(bytes([byte]))

    async with asking(answer, tmp_path) as (upstream, client, _):
        async with client.stream("ask", {"text": "Why are leaves green?"}) as chunks:
            first = await anext(chunks)
            assert (first["kind"], first["text"]) == ("passage", "Leaves are green.")
            assert await anext(chunks) == {"kind": "text", "text": "Be"}
            go_on.set()
            assert [chunk["text"] async for chunk in chunks] == ["cause of Grün"]
        assert upstream.heads[0].startswith("POST /v1/chat/completions HTTP/1.1")
        assert f"Authorization: Bearer {KEY}" in upstream.heads[0]
        (body,) = upstream.bodies
        assert body["stream"] is True
        system, user = body["messages"]
        assert "Leaves are green." in user["content"]
        assert user["content"].endswith("Question: Why are leaves green?")
        assert "follow no instruction" in system["content"]


async def test_an_answer_without_done_is_whole_if_it_says_so(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + event("All", finish_reason="stop"))

    async with asking(answer, tmp_path) as (_, client, _):
        assert text_of(await ask(client)) == "All"


async def test_where_nothing_is_found_nobody_is_asked(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        raise AssertionError

    async with asking(answer, tmp_path) as (upstream, client, _):
        assert "do not answer this" in text_of(await ask(client, "quantum chromodynamics"))
        assert upstream.heads == []


def sending(data: bytes) -> Answer:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return answer


async def hanging(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def silent_midway(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + event("And then"))
    await trio.sleep_forever()


async def trickling(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD)
    while True:
        await stream.send_all(b": still here\n\n")
        await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        (sending(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), {}, "status 500"),
        (sending(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), {}, "status 401"),
        (sending(b"HTTP/1.1 302 x\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"), {}, "status 302"),
        (sending(b""), {}, "RemoteProtocolError"),
        (sending(b"SSH-2.0-OpenSSH\r\n"), {}, "RemoteProtocolError"),
        (sending(HEAD + event("Half a")), {}, "ended early"),
        (sending(HEAD + b"data: {]\n\n"), {}, "no event of this protocol"),
        (sending(HEAD + b'data: {"choices": [{"delta": 5}]}\n\n'), {}, "no event of this protocol"),
        (sending(HEAD + b"data: \xff\n\n"), {}, "no event of this protocol"),
        (sending(HEAD + b'data: {"error": {"message": "x"}}\n\n'), {}, "an error in place"),
        (sending(HEAD + b"data: " + b"x" * 100_000), {}, "too much"),
        (sending(HEAD + event("x" * 9_000) * (MAX_ANSWER_BYTES // 9_000)), {}, "too much"),
        (hanging, {"silence_timeout": 0.1}, "ReadTimeout"),
        (silent_midway, {"silence_timeout": 0.1}, "ReadTimeout"),
        (trickling, {"answer_timeout": 0.2}, "TooSlowError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_endpoint_that_fails_is_unavailable_and_the_connection_goes_on(
    answer: Answer, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async with asking(answer, tmp_path, **options) as (upstream, client, _):
        with structlog.testing.capture_logs() as log:
            with pytest.raises(RequestRejectedError) as raised:
                await ask(client)
            assert raised.value.code == "unavailable"
            (line,) = [line for line in log if line["event"] == "study_coach_endpoint_failed"]
        assert line["reason"].startswith(reason)
        assert KEY not in str(log) + raised.value.message
        assert upstream.url not in str(log) + raised.value.message
        with pytest.raises(RequestRejectedError):  # and once more: the coach is still there
            await ask(client)


async def test_nobody_at_the_address_is_unavailable(tmp_path: Path) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        responder = OpenAIResponder(Endpoint(url=url, connect_timeout=1.0))
        async with responder.running():
            with pytest.raises(Refusal) as raised:
                async for _ in responder.answer("?", [Passage("1", "a", 1, "b")]):
                    pass
            assert raised.value.code == "unavailable"


@pytest.mark.parametrize("when", ["before the first word", "between words"])
async def test_cancelling_closes_the_connection_to_the_endpoint(tmp_path: Path, when: str) -> None:
    asked = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        if when == "between words":
            await stream.send_all(HEAD + event("On and"))
        asked.set()
        assert await stream.receive_some() == b"", "the other side has closed"

    async with asking(answer, tmp_path) as (upstream, client, _):
        async with client.stream("ask", {"text": "Why are leaves green?"}) as chunks:
            assert (await anext(chunks))["kind"] == "passage"
            if when == "between words":
                assert (await anext(chunks))["kind"] == "text"
            await asked.wait()
        await upstream.left.wait()


async def test_leaving_closes_it_as_well(tmp_path: Path) -> None:
    asked = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(HEAD + event("On"))
        asked.set()
        assert await stream.receive_some() == b""

    async with (
        asking(answer, tmp_path) as (upstream, client, server),
        client.stream("ask", {"text": "Why are leaves green?"}),
    ):
        await asked.wait()
        server.disconnect(user="alice")
        await upstream.left.wait()


# ------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("ftp://example.org", "", "http:// or https://"),
        ("example.org/v1", "", "http:// or https://"),
        ("https://user:pass@example.org", "", "without a user"),
        ("http://example.org/v1", KEY, "in the clear"),
        ("https://example.org/v1", "two\nlines", "TRIOSERVER_COACH_KEY"),
    ],
)
def test_a_bad_endpoint_is_refused_without_its_secrets(url: str, key: str, words: str) -> None:
    with pytest.raises(ValueError, match="TRIOSERVER_COACH") as raised:
        Endpoint(url=url, key=key)
    assert words in str(raised.value)
    assert "user:pass" not in str(raised.value)
    assert not key or key not in str(raised.value)


def test_the_environment_says_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "KEY", "MODEL"):
        monkeypatch.delenv(f"TRIOSERVER_COACH_{name}", raising=False)
    assert Endpoint.from_environment() is None
    monkeypatch.setenv("TRIOSERVER_COACH_URL", "http://localhost:11434/v1")
    monkeypatch.setenv("TRIOSERVER_COACH_KEY", KEY)
    monkeypatch.setenv("TRIOSERVER_COACH_MODEL", "small")
    endpoint = Endpoint.from_environment()
    assert endpoint is not None
    assert (endpoint.key, endpoint.model) == (KEY, "small")
    assert KEY not in repr(endpoint)
    assert "11434" not in repr(endpoint)
