"""What a mailbox logs is bounded, however many users and messages it concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.app.mailbox.test_mailbox import Post, by_name, posting
from tests.support.databases import eventually
from trioserver import Application, Config, Connection, LogConfig, Mailbox, serve
from trioserver.config import SendQueueConfig
from trioserver.logs.lines import BURST

LOG = LogConfig(lines_per_source=1)
MOST = BURST * 2
"""Lines that are written: those of a burst, and as many while the test takes its time."""


def kept_and_told(lines: list[Any], event: str) -> tuple[int, int]:
    kept = sum(line["event"] == event for line in lines)
    summaries = [line for line in lines if line["event"] == "log_lines_suppressed"]
    return kept, sum(line["count"] for line in summaries if line["of"] == event)


async def test_a_database_that_is_down_is_some_lines_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioserver.app.mailbox.user_queue.RETRY", 0.0)
    file, failures = tmp_path / "mail.db", 0
    with capture_logs() as lines:
        async with posting(f"sqlite:///{file}", Config(port=0, log=LOG)) as post:
            read = post.mailbox._store.read

            async def counted(*arguments: Any, **options: Any) -> Any:
                nonlocal failures
                failures += 1
                return await read(*arguments, **options)

            monkeypatch.setattr(post.mailbox._store, "read", counted)
            file.unlink()
            await post.connect()
            await eventually(lambda: failures > 3 * MOST)
    kept, told = kept_and_told(lines, "mailbox_unavailable")
    assert 1 <= kept <= MOST
    assert kept + told >= failures - 1


async def test_dropped_messages_are_some_lines_and_a_summary(sqlite_url: str) -> None:
    mailbox = Mailbox(sqlite_url, max_messages=1)
    app = Application(auth=by_name, mailbox=mailbox)
    route = app.route("/ws", mailbox=True)

    @route.on("flood")
    async def flood(connection: Connection) -> None:
        for n in range(100):
            await mailbox.send("bob", "note", n)

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, Config(port=0, log=LOG))
            async with trio.open_nursery() as streams:
                client = await Post(server, mailbox, streams).connect("alice", "/ws")
                assert (await client.request("flood"))["type"] == "ack"
                streams.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    kept, told = kept_and_told(lines, "mailbox_messages_dropped")
    assert 1 <= kept <= MOST
    assert kept + told == 99


async def test_messages_too_big_to_be_sent_are_some_lines_and_a_summary(sqlite_url: str) -> None:
    config = Config(port=0, log=LOG, send_queue=SendQueueConfig(max_bytes=4096))
    with capture_logs() as lines:
        async with posting(sqlite_url, config) as post:
            post.mailbox.max_message_bytes = 10_000  # as of a server before this one
            for n in range(100):
                await post.mailbox.send("alice", "note", [n, "x" * 5000])
            client = await post.connect()
            await post.nothing_for(client)
    kept, told = kept_and_told(lines, "mailbox_message_too_big")
    assert 1 <= kept <= MOST
    assert kept + told >= 100
