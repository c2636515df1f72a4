"""`trioserver connect`: lines to messages, and how it ended in words and as an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.cli.conftest import Invoke
from tests.support.app import World, make_application, serving, wall_clock
from trioserver import Config, serve
from trioserver.cli.commands.connect import _ENDED, in_words
from trioserver.cli.conversation.lines import read_lines
from trioserver.cli.conversation.talk import Line, Talk, parse_line
from trioserver.client import CloseReason, WebSocketURL
from trioserver.client.close_reason import CLOSED
from trioserver.client.raw import RawConnection, open_raw

ADDRESS = WebSocketURL.parse("ws://server/ws/1")
AUTH = {"type": "auth", "token": "alice"}


@attrs.define
class Screen:
    messages: list[dict[str, Any] | None] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def received(self, text: str, message: dict[str, Any] | None) -> None:
        self.messages.append(message)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages if message is not None]


async def conversation(
    *lines: str | float, first: dict[str, Any] | None = AUTH, wait: float = 10.0
) -> tuple[CloseReason, Screen]:
    """Type lines, at times pausing for seconds, at the test application."""
    screen = Screen()
    async with serving() as harness:

        async def open_stream(address: WebSocketURL) -> trio.abc.Stream:
            return harness.connect_raw().stream

        async with trio.open_nursery() as nursery:
            connection = await open_raw(nursery, ADDRESS, timeout=1, open_stream=open_stream)
            assert isinstance(connection, RawConnection)
            reason = await Talk(connection, screen, first=first, wait=wait).run(typed(lines))
            await connection.aclose()
            nursery.cancel_scope.cancel()
    return reason, screen


async def typed(lines: Sequence[str | float]) -> AsyncGenerator[str, None]:
    for line in lines:
        if isinstance(line, str):
            yield line
        else:
            await trio.sleep(line)


# ------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("line", "message", "id"),
    [
        ("ping", {"type": "ping", "id": 7}, 7),
        ("echo", {"type": "echo", "id": 7}, 7),
        ('echo {"a": 1}', {"type": "echo", "id": 7, "data": {"a": 1}}, 7),
        ("echo [1]", {"type": "echo", "id": 7, "data": [1]}, 7),
        ('subscribe {"topics": ["a"]}', {"type": "subscribe", "id": 7, "topics": ["a"]}, 7),
        ('cancel {"id": 3}', {"type": "cancel", "id": 3}, None),
        ('{"type": "echo"}', {"type": "echo", "id": 7}, 7),
        ('{"type": "echo", "id": "x"}', {"type": "echo", "id": "x"}, "x"),
        ('{"type": "echo", "id": []}', {"type": "echo", "id": []}, None),
        ('{"a": 1}', {"a": 1}, None),
    ],
)
def test_a_line_is_a_message_with_an_id(
    line: str, message: dict[str, Any], id: str | int | None
) -> None:
    parsed = parse_line(line, 7)
    assert json.loads(parsed.text) == message
    assert parsed.id == id
    assert parsed.is_message


@pytest.mark.parametrize("line", ["Hello", "echo text", '{"type":', "[1]", "é", "[" * 10_000])
def test_anything_else_is_sent_as_it_stands(line: str) -> None:
    assert parse_line(line, 7) == Line(line, is_message=False)


async def test_lines_come_out_of_a_file_and_a_pipe(tmp_path: Path) -> None:
    text = "a\n\nb\r\nlast é".encode()
    (tmp_path / "lines").write_bytes(text)
    with (tmp_path / "lines").open() as file:
        assert [line async for line in read_lines(file)] == ["a", "", "b", "last é"]
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert [line async for line in read_lines(pipe)] == ["a", "", "b", "last é"]


# ------------------------------------------------------------------------------ conversations


async def test_what_was_asked_is_answered_before_it_closes(autojump_clock: MockClock) -> None:
    reason, screen = await conversation('slow {"ms": 3000}', 'echo {"text": "a"}')
    assert screen.types == ["hello", "ready", "ack", "ack"]
    assert reason == CLOSED


async def test_the_wait_for_answers_is_bounded(autojump_clock: MockClock) -> None:
    reason, _ = await conversation('slow {"ms": 3000}', wait=1)
    assert (reason.retry, reason.message) == ("backoff", "No response to 1 of the messages.")


async def test_what_is_wrong_is_sent_and_its_error_shown(autojump_clock: MockClock) -> None:
    reason, screen = await conversation("{", 'cancel {"id": 3}')
    assert screen.types == ["hello", "ready", "error", "pong"]
    assert screen.notes == ["sent unchanged, because it is neither `type {json}` nor a JSON object"]
    assert reason == CLOSED


async def test_without_a_token_the_first_line_is_the_first_message(
    autojump_clock: MockClock,
) -> None:
    reason, screen = await conversation("ping", first=None)
    assert screen.types == ["hello", "error"]
    assert (reason.code, reason.close_code) == ("auth_required", 1008)
    reason, screen = await conversation('auth {"token": "alice"}', "ping", first=None)
    assert screen.types == ["hello", "ready", "pong"]
    reason, screen = await conversation(first=None)
    assert reason == CLOSED


async def test_pings_that_are_messages_are_answered(autojump_clock: MockClock) -> None:
    reason, screen = await conversation(100.0, first={**AUTH, "heartbeat": "message"})
    assert "ping" in screen.types
    assert reason == CLOSED


@pytest.mark.parametrize("token", ["forged", "expired", None])
async def test_a_refusal_ends_it_with_what_the_server_said(
    autojump_clock: MockClock, token: str | None
) -> None:
    reason, _ = await conversation(100.0, first={"type": "auth", "token": token})
    assert reason.close_code == 1008
    assert reason.code in ("token_invalid", "token_expired", "token_missing")


def test_the_end_is_told_in_words() -> None:
    assert in_words(CLOSED) == "Closed by this program."
    words = in_words(CloseReason.from_close(1008, "token_expired"))
    assert _ENDED["refresh_token"] == 4
    assert words.startswith("Closed with 1008, token_expired: The token has expired. Fetch a new")
    assert in_words(CloseReason.local("Gone.")) == "Closed, connection_lost: Gone. Try again later."


# ------------------------------------------------------------------------------ the program


@pytest.mark.parametrize(
    "arguments", [["http://x"], ["ws://x", "--initial", "[]"], ["ws://x", "--token", "a",
                  "--token-file", "b"], []],
)  # fmt: skip
def test_a_wrong_command_line_is_2(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("connect", *arguments).exit_code == 2


def test_a_server_that_is_not_there_is_5(invoke: Invoke) -> None:
    result = invoke("connect", "ws://127.0.0.1:1/?token=secret", "--token", "secret")
    assert result.exit_code == 5
    assert "Connection refused. Try again later." in result.stderr
    assert "secret" not in result.output


@asynccontextmanager
async def listening() -> AsyncIterator[str]:
    start = partial(serve, make_application(World()), Config(port=0), clock=wall_clock)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(start)
        yield f"{server.addresses[0].url}/ws/1"
        nursery.cancel_scope.cancel()


async def run(*arguments: str, lines: str = "") -> subprocess.CompletedProcess[bytes]:
    main = "from trioserver.cli.main import main; main()"
    return await trio.run_process(
        [sys.executable, "-c", main, *arguments],
        stdin=lines.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


async def test_it_talks_and_says_how_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("alice:9999999999\n")
    async with listening() as url, trio.open_nursery() as nursery:

        async def people() -> None:
            done = await run("connect", url, "--token-file", str(file), lines="ping\n")
            assert b"< ready: " in done.stdout
            assert b'"pong"' in done.stdout
            assert done.returncode == 0
            assert b"9999999999" not in done.stdout + done.stderr

        async def machine() -> None:
            done = await run("connect", url, "--token", "forged", "--json")
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            assert [line["type"] for line in lines] == ["hello", "error", "closed"]
            assert lines[-1]["code"] == "token_invalid"
            assert done.returncode == lines[-1]["exit_code"] == 3

        for part in (people, machine):
            nursery.start_soon(part)
