"""Messages for users who may be away: kept, delivered in order, once. On SQLite and PostgreSQL.

Databases answer from threads, so that time is real here; clients are in memory.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.client import Client, Message
from tests.support.databases import eventually
from tests.support.patience import PATIENCE
from tests.support.postgresql import PostgreSQL
from trioserver import (
    Application,
    Config,
    Connection,
    Credentials,
    Mailbox,
    MailboxFullError,
    Refusal,
    Request,
    SendReceipt,
    Server,
    TooBigToSendError,
    User,
    allow_any_user,
    serve,
)
from trioserver.app.mailbox.capacity import Capacity
from trioserver.app.mailbox.sql_store import SQLStore
from trioserver.app.mailbox.store import Bounds, Swept, Totals
from trioserver.app.mailbox.sweeping import PAUSE, ROWS, sweep, sweep_forever
from trioserver.config import SendQueueConfig
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage.migrations import SchemaTooNewError

ACK = {"mailbox": "ack"}


async def by_name(credentials: Credentials, request: Request) -> User:
    return User(id=credentials.token or "nobody")


@attrs.define
class Post:
    """A server with a mailbox, and its clients."""

    server: Server
    mailbox: Mailbox
    nursery: trio.Nursery

    async def connect(self, user: str = "alice", path: str = "/ws/1", **auth: Any) -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.serve_stream, theirs)
        client = Client(ours)
        await client.open(path)
        await client.authenticate(user, **auth)
        return client

    async def deliver(self, client: Client, count: int) -> list[Any]:
        """The data of the next messages."""
        with trio.fail_after(PATIENCE):
            return [(await client.receive())["data"] for _ in range(count)]

    async def nothing_for(self, client: Client) -> None:
        """The next thing that comes is the answer to a question that is asked now."""
        with trio.fail_after(PATIENCE):
            await self.caught_up()
            await client.send(type="ping", id="nothing")
            assert (await client.receive())["type"] == "pong"

    async def caught_up(self) -> None:
        """Everybody who is connected has been sent all that waited."""

        def is_so() -> bool:
            ready = [one for one in self.server.connections if one.route.mailbox is not None]
            queues = [self.mailbox._queues.get(user) for user in {one.user.id for one in ready}]
            joined = sum(queue.recipients for queue in queues if queue is not None)
            return joined == len(ready) and all(queue.is_current for queue in queues if queue)

        await eventually(is_so)

    async def leave(self, client: Client) -> None:
        await client.close()
        await self.is_quiet()

    async def is_quiet(self) -> None:
        """Nobody is connected, and all that was delivered is noted."""
        await eventually(lambda: not self.mailbox._queues and not self.mailbox._queues.undeleted())


@asynccontextmanager
async def posting(
    database: str | Path | Database, config: Config | None = None, **options: Any
) -> AsyncIterator[Post]:
    mailbox = Mailbox(database, **options)
    app = Application(auth=by_name, mailbox=mailbox)
    app.route("/ws/{id}", authorize=allow_any_user, mailbox=True)
    app.route("/no-mail")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config or Config(port=0))
        async with trio.open_nursery() as streams:
            yield Post(server, mailbox, streams)
            streams.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert not mailbox._queues


@pytest.fixture
async def post(database_url: str) -> AsyncIterator[Post]:
    async with posting(database_url) as post:
        yield post


# ------------------------------------------------------------------------------ waiting, and coming


async def test_what_was_sent_to_somebody_away_comes_in_order_and_once(post: Post) -> None:
    for n in range(120):  # more than one read finds
        assert (await post.mailbox.send("alice", "note", n)).connections == 0
    assert await post.mailbox.waiting("alice") == 120
    client = await post.connect()
    assert await post.deliver(client, 120) == list(range(120))
    await post.leave(client)
    assert await post.mailbox.waiting("alice") == 0
    again = await post.connect()
    await post.nothing_for(again)


async def test_who_is_there_gets_it_at_once_on_all_connections(post: Post) -> None:
    clients = [await post.connect(), await post.connect("alice", "/ws/2")]
    other = await post.connect("bob")
    await post.caught_up()
    posted = await post.mailbox.send("alice", "note", {"text": "hi"})
    assert (posted.connections, posted.dropped) == (2, 0)
    for client in clients:
        assert await client.receive() == {"type": "note", "id": posted.id, "data": {"text": "hi"}}
    await post.nothing_for(other)
    for client in (*clients, other):
        await client.close()
    await post.is_quiet()
    assert await post.mailbox.waiting("alice") == 0
    await post.nothing_for(await post.connect())


async def test_of_several_that_come_the_first_gets_what_has_waited(post: Post) -> None:
    for n in range(20):
        await post.mailbox.send("alice", "note", n)
    clients = [await post.connect() for _ in range(4)]
    await post.caught_up()
    got: list[list[Any]] = []
    for client in clients:
        await client.send(type="ping", id="end")
        data = []
        while (message := await client.receive())["type"] != "pong":
            data.append(message["data"])
        got.append(data)
    assert sorted(got) == [[], [], [], list(range(20))]


class Consumers(trio.abc.Instrument):
    """Counts the tasks that read messages from the database."""

    def __init__(self) -> None:
        self.running = self.most = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("UserQueue._consume"):
            self.running += 1
            self.most = max(self.most, self.running)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("UserQueue._consume"):
            self.running -= 1


async def test_a_user_has_one_consumer_and_none_when_nothing_waits(post: Post) -> None:
    consumers = Consumers()
    trio.lowlevel.add_instrument(consumers)
    for n in range(150):  # two reads
        await post.mailbox.send("alice", "note", n)
    clients = [await post.connect() for _ in range(3)]
    assert await post.deliver(clients[0], 150) == list(range(150))
    await post.caught_up()
    assert (consumers.most, consumers.running) == (1, 0)
    await post.mailbox.send("alice", "note", "new")
    for client in clients:
        assert await post.deliver(client, 1) == ["new"]
    assert consumers.running == 0
    trio.lowlevel.remove_instrument(consumers)


async def test_a_mailbox_that_two_servers_run_goes_on_when_one_of_them_ends(
    database_url: str,
) -> None:
    async with Database(database_url) as database, posting(database) as post:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, post.server.application, Config(port=0))
            await post.mailbox.send("alice", "note", 1)
            client = await post.connect()
            assert await post.deliver(client, 1) == [1]
            nursery.cancel_scope.cancel()
        await post.leave(client)
        await post.mailbox.send("alice", "note", 2)
        client = await post.connect()
        assert await post.deliver(client, 1) == [2]
        await post.leave(client)
        assert await post.mailbox.waiting("alice") == 0


async def test_what_is_sent_while_the_rest_is_delivered_comes_after_it(post: Post) -> None:
    for n in range(30):
        await post.mailbox.send("alice", "note", n)

    async def send_more() -> None:
        for n in range(30, 50):
            await post.mailbox.send("alice", "note", n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_more)
        client = await post.connect()
        assert await post.deliver(client, 50) == list(range(50))
    await post.nothing_for(client)


async def test_senders_at_the_same_time_lose_nothing(post: Post) -> None:
    client = await post.connect()

    async def send(sender: int) -> None:
        for n in range(10):
            await post.mailbox.send("alice", "note", [sender, n])

    async with trio.open_nursery() as nursery:
        for sender in range(4):
            nursery.start_soon(send, sender)
    got = await post.deliver(client, 40)
    for sender in range(4):
        assert [n for who, n in got if who == sender] == list(range(10))
    await post.nothing_for(client)


async def test_coming_and_going_while_messages_are_sent_loses_and_repeats_none(post: Post) -> None:
    """Clients that acknowledge see each at least once, and tell repeats by their ids."""
    ids: list[str] = []
    seen: dict[str, Any] = {}

    async def send() -> None:
        for n in range(60):
            ids.append((await post.mailbox.send("alice", "note", n)).id)

    async def come_and_go(messages: int) -> None:
        client = await post.connect(**ACK)
        with trio.move_on_after(0.05):
            for _ in range(messages):
                message = await client.receive()
                seen.setdefault(message["id"], message["data"])
                await client.send(type="mailbox.ack", data={"ids": [message["id"]]})
        client.vanish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for messages in (1, 2, 3, 0, 5) * 4:
            nursery.start_soon(come_and_go, messages)
            await trio.sleep(0.005)
    last = await post.connect(**ACK)
    await post.caught_up()
    await last.send(type="ping")
    while (message := await last.receive())["type"] != "pong":
        seen.setdefault(message["id"], message["data"])
    assert [seen[id] for id in ids] == list(range(60))


async def test_a_message_may_be_for_one_resource_only(post: Post) -> None:
    await post.mailbox.send("alice", "note", "for 2", resource={"id": "2"})
    await post.mailbox.send("alice", "note", "for all")
    one = await post.connect(path="/ws/1")
    assert await post.deliver(one, 1) == ["for all"]
    await post.nothing_for(one)
    assert (await post.mailbox.send("alice", "note", "x", resource={"id": "3"})).connections == 0
    two = await post.connect(path="/ws/2")
    assert await post.deliver(two, 1) == ["for 2"]
    assert (await post.mailbox.send("alice", "note", "y", resource={"id": "1"})).connections == 1
    assert await post.deliver(one, 1) == ["y"]
    await post.nothing_for(two)


async def test_a_route_without_a_mailbox_delivers_nothing(post: Post) -> None:
    await post.mailbox.send("alice", "note", 1)
    client = await post.connect(path="/no-mail")
    await post.nothing_for(client)
    await client.send(type="mailbox.ack", id=1, data={"ids": ["x"]})
    assert (await client.receive())["code"] == "unknown_type"
    assert await post.mailbox.waiting("alice") == 1


async def test_two_boxes_in_one_database_are_apart(database_url: str) -> None:
    async with posting(database_url, namespace="first") as first:
        await first.mailbox.send("alice", "note", 1)
    async with posting(database_url, namespace="second") as second:
        await second.nothing_for(await second.connect())
    async with posting(database_url, namespace="first") as first:
        assert await first.deliver(await first.connect(), 1) == [1]


async def test_a_message_without_data_has_none(post: Post) -> None:
    await post.mailbox.send(User(id="alice"), "note")
    await post.mailbox.send("alice", "note", None)
    client = await post.connect()
    first, second = await client.receive(), await client.receive()
    assert "data" not in first
    assert second["data"] is None


# ------------------------------------------------------------------------------ acknowledging


async def test_what_is_not_acknowledged_comes_again_with_the_same_id(post: Post) -> None:
    sent = [(await post.mailbox.send("alice", "note", n)).id for n in range(3)]
    client = await post.connect(**ACK)
    got = [await client.receive() for _ in range(3)]
    assert [message["id"] for message in got] == sent
    await client.send(type="mailbox.ack", id="a", data={"ids": [sent[1]]})
    assert (await client.receive()) == {"type": "ack", "id": "a"}
    await post.leave(client)
    again = await post.connect(**ACK)
    assert [(await again.receive())["id"] for _ in range(2)] == [sent[0], sent[2]]
    await again.send(type="mailbox.ack", id="b", data={"ids": sent})
    assert (await again.receive()) == {"type": "ack", "id": "b"}
    await post.leave(again)
    await post.nothing_for(await post.connect())


async def test_what_one_connection_left_unacknowledged_goes_to_another_that_is_there(
    post: Post,
) -> None:
    await post.mailbox.send("alice", "note", 1)
    first = await post.connect(**ACK)
    assert await post.deliver(first, 1) == [1]
    second = await post.connect(**ACK)
    await post.nothing_for(second)
    first.vanish()
    assert await post.deliver(second, 1) == [1]


async def test_the_first_that_has_it_is_enough(post: Post) -> None:
    plain, careful = await post.connect(), await post.connect(**ACK)
    await post.caught_up()
    await post.mailbox.send("alice", "note", 1)
    assert await post.deliver(plain, 1) == await post.deliver(careful, 1) == [1]
    for client in (plain, careful):
        await client.close()
    await post.is_quiet()
    assert await post.mailbox.waiting("alice") == 0


async def test_nobody_acknowledges_for_somebody_else(post: Post) -> None:
    posted = await post.mailbox.send("alice", "note", 1)
    mallory = await post.connect("mallory", **ACK)
    await mallory.send(type="mailbox.ack", id=1, data={"ids": [posted.id, "not-there", "\0"]})
    answer = await mallory.receive()
    assert answer in ({"type": "ack", "id": 1}, answer | {"code": "internal_error"})
    assert await post.mailbox.waiting("alice") == 1
    assert await post.deliver(await post.connect(), 1) == [1]


@pytest.mark.parametrize(
    "data", [None, {}, {"ids": []}, {"ids": "x"}, {"ids": [1]}, {"ids": [""]}, {"ids": ["x"] * 101}]
)
async def test_an_acknowledgement_that_is_none_is_answered(post: Post, data: Any) -> None:
    client = await post.connect(**ACK)
    await client.send(type="mailbox.ack", id=1, data=data)
    assert (await client.receive())["code"] == "invalid_payload"


async def test_what_the_client_says_of_itself_counts_only_when_it_is_known(post: Post) -> None:
    for value in (True, "ACK", ["ack"], {"ack": 1}):
        await post.mailbox.send("alice", "note", 1)
        client = await post.connect(mailbox=value)
        assert await post.deliver(client, 1) == [1]
        await post.leave(client)
        assert await post.mailbox.waiting("alice") == 0


# ------------------------------------------------------------------------------ bounds


async def test_beyond_the_bounds_the_oldest_go_and_everybody_is_told(database_url: str) -> None:
    async with posting(database_url, max_messages=3) as post:
        dropped = [(await post.mailbox.send("alice", "note", n)).dropped for n in range(5)]
        assert dropped == [0, 0, 0, 1, 1]
        client = await post.connect()
        assert await client.receive() == {"type": "mailbox.dropped", "data": {"count": 2}}
        assert await post.deliver(client, 3) == [2, 3, 4]
        await post.leave(client)
        await post.nothing_for(await post.connect())  # and is told once


async def test_bytes_are_bounded_and_one_that_never_fits_is_refused(database_url: str) -> None:
    async with posting(database_url, max_bytes=2048) as post:
        for message in "abc":
            await post.mailbox.send("alice", "note", message * 700)
        with pytest.raises(TooBigToSendError, match="2,048"):
            await post.mailbox.send("alice", "note", "d" * 2048)
        client = await post.connect()
        assert await post.deliver(client, 3) == [{"count": 1}, "b" * 700, "c" * 700]


async def test_what_is_too_old_is_not_delivered_but_said(database_url: str) -> None:
    now = 1_000_000.0
    async with posting(database_url, max_age=60.0, clock=lambda: now) as post:
        await post.mailbox.send("alice", "note", "old")
        await post.mailbox.send("bob", "note", "old")
        now += 61.0
        assert (await post.mailbox.send("alice", "note", "new")).dropped == 1
        assert await post.mailbox._store.sweep(now, 10) == Swept(messages=1, is_last=True)
        assert await post.mailbox._store.sweep(now, 10) == Swept(messages=0, is_last=True)
        for user, expected in (("alice", [{"count": 1}, "new"]), ("bob", [{"count": 1}])):
            assert await post.deliver(await post.connect(user), len(expected)) == expected


async def test_what_nobody_was_told_of_in_time_is_forgotten(database_url: str) -> None:
    now = 1_000_000.0
    async with posting(database_url, max_age=60.0, clock=lambda: now) as post:
        await post.mailbox.send("alice", "note", "old")
        now += 61.0
        assert await post.mailbox._store.sweep(now, 10) == Swept(messages=1, is_last=True)
        now += 61.0
        await post.mailbox._store.sweep(now, 10)
        await post.nothing_for(await post.connect())


async def test_all_mailboxes_together_are_bounded_and_nobody_pushes_out_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioserver.app.mailbox.capacity.COUNT_INTERVAL", 0.0)
    async with posting(database_url, max_messages=3, max_total_messages=4) as post:
        for user in ("alice", "alice", "bob", "carol"):
            await post.mailbox.send(user, "note", user)
        for user in ("alice", "dave"):
            with pytest.raises(MailboxFullError) as full:
                await post.mailbox.send(user, "note", "one more")
            assert (full.value.code, full.value.retry) == ("mailbox_full", "backoff")
        client = await post.connect()
        assert await post.deliver(client, 2) == ["alice", "alice"]
        await post.leave(client)
        for _ in range(2):
            await post.mailbox.send("dave", "note", "there is room again")
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("dave", "note", "one more")
        assert [await post.mailbox.waiting(user) for user in ("bob", "carol", "dave")] == [1, 1, 2]


async def test_a_full_mailbox_is_not_counted_for_each_message(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with posting(sqlite_url, max_messages=1, max_total_messages=1) as post:
        await post.mailbox.send("alice", "note", 1)
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("bob", "note", 1)
        client = await post.connect()
        assert await post.deliver(client, 1) == [1]
        await post.leave(client)
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("bob", "note", 1)
        monkeypatch.setattr("trioserver.app.mailbox.capacity.COUNT_INTERVAL", 0.0)
        await post.mailbox.send("bob", "note", 1)


async def test_the_bytes_of_all_mailboxes_together_are_bounded(database_url: str) -> None:
    async with posting(database_url, max_bytes=2048, max_total_bytes=2048) as post:
        await post.mailbox.send("alice", "note", "x" * 1000)
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("bob", "note", "x" * 1000)
        await post.mailbox.send("bob", "note", "x" * 100)


async def test_users_are_bounded_and_those_who_have_a_mailbox_keep_it(database_url: str) -> None:
    async with posting(database_url, max_users=2) as post:
        await post.mailbox.send("alice", "note", 1)
        await post.mailbox.send("bob", "note", 1)
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("carol", "note", 1)
        for user in ("alice", "bob"):
            await post.mailbox.send(user, "note", 2)
        assert await post.mailbox.waiting("alice") == 2


async def test_many_messages_for_one_user_leave_room_for_another(database_url: str) -> None:
    async with posting(database_url, max_users=2) as post:
        for number in range(3):
            await post.mailbox.send("alice", "note", number)
        await post.mailbox.send("bob", "note", 1)
        with pytest.raises(MailboxFullError):
            await post.mailbox.send("carol", "note", 1)


async def test_senders_do_not_wait_one_after_the_other_for_a_database_that_hangs(
    sqlite_url: str, autojump_clock: MockClock
) -> None:
    class Hung(SQLStore):
        async def totals(self) -> Totals:
            await trio.sleep(5.0)
            raise DatabaseUnavailableError("timeout", "It hangs.")

    store = Hung(Database(sqlite_url), "default", Bounds(messages=9, bytes=9999, age=60.0))
    capacity = Capacity(store, Totals(messages=9, bytes=9999, users=9), timeout=5.0)
    refused: list[str] = []

    async def take(user: str) -> None:
        with pytest.raises(DatabaseUnavailableError):
            await capacity.acquire(user, 1)
        refused.append(user)

    with trio.fail_after(11.0):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(take, str(number))
    assert len(refused) == 20


async def test_what_is_kept_can_be_read_while_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with posting(path) as post:
        await post.mailbox.send("alice", "note", 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with Database(path, timeout=0.5) as database:
            assert await Mailbox(database).waiting("alice") == 1


async def test_more_old_messages_than_a_statement_takes_parameters_do_not_refuse_a_new_one(
    database_url: str,
) -> None:
    old = """INSERT INTO trioserver_mailbox_messages (id, namespace, user_id, type, size, at)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70000)
        SELECT CAST(i AS VARCHAR), 'default', 'alice', 'note', 1, 0.0 FROM n"""
    async with Database(database_url, timeout=PATIENCE) as database:
        mailbox = Mailbox(database)
        assert await mailbox.waiting("alice") == 0  # makes the tables
        await database.run(lambda connection: connection.execute(sa.text(old)).close())
        posted = await mailbox.send("alice", "note", 1)
        assert (posted.dropped, await mailbox.waiting("alice")) == (70_000, 1)


async def test_of_messages_with_the_same_key_the_last_one_is_kept(database_url: str) -> None:
    async with posting(database_url, max_messages=3) as post:
        await post.mailbox.send("alice", "note", "genuine")
        for n in range(10):
            posted = await post.mailbox.send("alice", "news", n, key="news")
            assert posted.dropped == 0
        await post.mailbox.send("bob", "news", "his own", key="news")
        await post.mailbox.send("alice", "note", "after it")
        assert await post.mailbox.waiting("alice") == 3
        client = await post.connect()
        assert await post.deliver(client, 3) == ["genuine", 9, "after it"]
        await post.mailbox.send("alice", "news", "now", key="news")
        assert await post.deliver(client, 1) == ["now"]
        await post.leave(client)
        await post.nothing_for(await post.connect())
        assert await post.mailbox.waiting("bob") == 1


async def test_a_message_with_a_key_can_be_withdrawn(post: Post) -> None:
    await post.mailbox.send("alice", "news", 1, key="news")
    await post.mailbox.send("alice", "note", 2)
    assert await post.mailbox.withdraw("alice", "news")
    assert not await post.mailbox.withdraw("alice", "news")
    assert not await post.mailbox.withdraw("alice", "x" * 129)
    assert await post.deliver(await post.connect(), 1) == [2]


@pytest.mark.parametrize("key", ["", "x" * 129, "a\0b"])
async def test_a_key_that_cannot_be_is_refused(post: Post, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await post.mailbox.send("alice", "note", 1, key=key)


# ------------------------------------------------------------------------------ age, and the clock


@pytest.mark.parametrize("jump", [8 * 86400.0, -8 * 86400.0])
async def test_a_clock_that_is_wrong_for_a_moment_takes_nothing_away(
    jump: float, database_url: str
) -> None:
    ahead = 0.0
    async with posting(database_url, clock=lambda: 1e9 + ahead) as post:
        for n in range(5):
            await post.mailbox.send("alice", "note", n)
        ahead = jump
        assert (await post.mailbox.send("alice", "note", 5)).dropped == 0
        await sweep(post.mailbox._store, post.mailbox._clock.now)
        ahead = 0.0
        assert (await post.mailbox.send("alice", "note", 6)).dropped == 0
        await sweep(post.mailbox._store, post.mailbox._clock.now)
        assert await post.deliver(await post.connect(), 7) == [0, 1, 2, 3, 4, 5, 6]


async def test_what_is_too_old_is_taken_away_some_at_a_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("trioserver.app.mailbox.sweeping.PAUSE", 0.0)
    monkeypatch.setattr("trioserver.app.mailbox.sweeping.ROWS", 10)
    async with posting(database_url, max_age=60.0, clock=lambda: now) as post:
        for n in range(25):
            await post.mailbox.send(f"user-{n % 3}", "note", n)
        now += 50
        await post.mailbox.send("user-0", "note", "young")
        now += 20
        store = post.mailbox._store
        assert await store.sweep(now, 10) == Swept(messages=10, is_last=False)
        await sweep(store, lambda: now)
        assert [await post.mailbox.waiting(f"user-{n}") for n in range(3)] == [1, 0, 0]
        client = await post.connect("user-0")
        assert await post.deliver(client, 2) == [{"count": 9}, "young"]


@attrs.define
class SlowStore:
    """Takes away what it is asked to, unless that is more rows than it manages in its time."""

    left: int
    manages: int
    asked: list[tuple[float, int]] = attrs.field(factory=list)

    async def sweep(self, now: float, rows: int) -> Swept:
        self.asked.append((trio.current_time(), rows))
        await trio.sleep(0.01)
        if rows > self.manages:
            raise DatabaseUnavailableError("timeout", "too slow")
        taken = min(rows, self.left)
        self.left -= taken
        return Swept(messages=taken, is_last=taken < rows)


@pytest.mark.parametrize("manages", [1, 7, 400, 5000])
async def test_a_database_too_slow_for_a_batch_is_given_smaller_ones(
    manages: int, autojump_clock: MockClock
) -> None:
    store = SlowStore(left=50, manages=manages)
    await sweep(store, lambda: 0.0)  # type: ignore[arg-type]
    assert store.left == 0
    assert max(rows for _, rows in store.asked) == ROWS
    times = [at for at, _ in store.asked]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= PAUSE for gap in gaps), "others write in between"


async def test_a_database_that_cannot_take_away_one_row_is_left_alone_until_the_next_time(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore(left=5, manages=0)
    with pytest.raises(DatabaseUnavailableError):
        await sweep(store, lambda: 0.0)  # type: ignore[arg-type]
    assert store.asked[-1][1] == 1
    with trio.move_on_after(3 * 3600):
        await sweep_forever(store, lambda: 0.0)  # type: ignore[arg-type]
    assert len(store.asked) < 50


# ------------------------------------------------------------------------------ the tables


async def test_tables_of_a_newer_version_stop_the_start(database_url: str) -> None:
    async with posting(database_url) as post:
        await post.mailbox.send("alice", "note", 1)
    newer = "UPDATE trioserver_schema SET version = 99 WHERE component = 'mailbox'"
    async with Database(database_url) as database:
        await database.run(lambda connection: connection.exec_driver_sql(newer).rowcount)
    with pytest.raises(ExceptionGroup) as stopped:
        async with posting(database_url):
            pass
    assert stopped.group_contains(SchemaTooNewError)


async def test_a_message_larger_than_any_that_is_sent_is_refused(sqlite_url: str) -> None:
    config = Config(port=0, send_queue=SendQueueConfig(max_bytes=4096))
    async with posting(sqlite_url, config) as post:
        with pytest.raises(TooBigToSendError):
            await post.mailbox.send("alice", "note", "x" * 3500)
        assert await post.mailbox.waiting("alice") == 0


async def test_a_kept_message_larger_than_any_that_is_sent_now_harms_nobody(
    sqlite_url: str,
) -> None:
    config = Config(port=0, send_queue=SendQueueConfig(max_bytes=4096))
    async with posting(sqlite_url, config) as post:
        client = await post.connect()
        await post.caught_up()
        post.mailbox.max_message_bytes = 10_000  # as of a server before this one
        await post.mailbox.send("alice", "note", "x" * 5000)
        await post.mailbox.send("alice", "note", "small")
        assert await post.deliver(client, 1) == ["small"]
        await post.nothing_for(client)
        assert await post.mailbox.waiting("alice") >= 1


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("user", ["", "x" * 256, "a\0b", "\ud800"])
async def test_a_user_who_cannot_be_is_refused(post: Post, user: str) -> None:
    with pytest.raises(ValueError, match="user's id"):
        await post.mailbox.send(user, "note")
    assert await post.mailbox.waiting(user) == 0


@pytest.mark.parametrize("type", ["", "Note", "a b", "ack", "event", "mailbox.ack", "mailbox.x"])
async def test_a_type_that_cannot_be_is_refused(post: Post, type: str) -> None:
    with pytest.raises(ValueError, match="type"):
        await post.mailbox.send("alice", type)


async def test_data_that_json_cannot_say_is_refused(post: Post) -> None:
    nested: Any = 1
    for _ in range(70):
        nested = [nested]
    for data in (object(), {1j: 1}, "\ud800", nested):
        with pytest.raises((TypeError, ValueError, Refusal)):
            await post.mailbox.send("alice", "note", data)
    assert await post.mailbox.waiting("alice") == 0


async def test_all_that_json_can_say_comes_as_it_was(post: Post) -> None:
    data = {"nul": "a\0b", "world": "世界 🌍", "quote": "'\"\\;--", "deep": [[[[None, 1.5, True]]]]}
    await post.mailbox.send("o'brien; --", "note", data, resource={"id": "ü\"'"})
    client = await post.connect("o'brien; --", "/ws/%C3%BC%22'")
    assert await post.deliver(client, 1) == [data]


@pytest.mark.parametrize(
    "options",
    [
        {"max_messages": 0},
        {"max_bytes": 1},
        {"max_age": 0.0},
        {"max_total_messages": 999},
        {"max_total_bytes": 1024},
        {"max_users": 0},
        {"namespace": ""},
        {"namespace": "x" * 65},
    ],
)
def test_bad_options_are_refused(sqlite_url: str, options: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Mailbox(sqlite_url, **options)


def test_a_route_with_a_mailbox_needs_an_application_with_one() -> None:
    app = Application(auth=by_name)
    with pytest.raises(RuntimeError, match="mailbox=Mailbox"):
        app.route("/ws", mailbox=True)


# ------------------------------------------------------------------------------ failures


async def test_a_user_who_leaves_at_once_has_had_it(post: Post) -> None:
    """The close comes on the heels of the message: what has been written is noted all the same."""
    for n in range(20):
        await post.mailbox.send("alice", "note", n)
        client = await post.connect()
        assert await post.deliver(client, 1) == [n]
        client.vanish()
        await post.is_quiet()


async def test_what_a_slow_client_was_not_sent_is_kept(sqlite_url: str) -> None:
    config = Config(port=0, send_queue=SendQueueConfig(max_bytes=64 * 1024, max_age=1.0))
    async with posting(sqlite_url, config) as post:
        ours, theirs = trio.testing.lockstep_stream_pair()
        post.nursery.start_soon(post.server.serve_stream, theirs)
        slow = Client(ours)
        await slow.open("/ws/1")
        await slow.authenticate("alice")
        await post.caught_up()
        for n in range(30):
            await post.mailbox.send("alice", "note", [n, "x" * 4000])
        await eventually(lambda: not post.mailbox._queues)  # it was closed as a slow consumer
        client = await post.connect()
        await post.caught_up()
        await client.send(type="ping")
        got: list[int] = []
        while (message := await client.receive())["type"] != "pong":
            got.append(message["data"][0])
        assert got == list(range(got[0], 30))
        assert len(got) > 10


async def test_a_database_that_is_down_is_said_and_survived(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioserver.app.mailbox.user_queue.RETRY", 0.05)
    monkeypatch.setattr("trioserver.app.mailbox.deleting.RETRY", 0.05)
    async with posting(postgresql_url) as post:
        await post.mailbox.send("alice", "note", 1)
        with postgresql.down():
            client = await post.connect()  # the mailbox is no reason to refuse anybody
            with pytest.raises(DatabaseUnavailableError):
                await post.mailbox.send("alice", "note", "never")
            careful = await post.connect("bob", **ACK)
            await careful.send(type="mailbox.ack", id=1, data={"ids": ["x"]})
            assert (await careful.receive())["code"] == "unavailable"
        assert await post.deliver(client, 1) == [1]
        await post.mailbox.send("alice", "note", 2)
        assert await post.deliver(client, 1) == [2]
        await post.nothing_for(client)


async def test_a_database_of_the_applications_own_is_not_closed(database_url: str) -> None:
    async with Database(database_url) as database:
        async with posting(database) as post:
            await post.mailbox.send("alice", "note", 1)
        assert await database.read(lambda connection: connection.scalar(sa.text("SELECT 1"))) == 1


async def test_sending_cancelled_at_any_moment_leaves_the_mailbox_whole(sqlite_url: str) -> None:
    async with posting(sqlite_url) as post:
        client = await post.connect()
        sent: list[SendReceipt] = []
        for n in range(40):
            with trio.move_on_after(n * 0.0002):
                sent.append(await post.mailbox.send("alice", "note", n))
        sent.append(await post.mailbox.send("alice", "note", "last"))
        got: list[Message] = []
        while not got or got[-1]["data"] != "last":
            got.append(await client.receive())
        ids = [message["id"] for message in got]
        assert len(set(ids)) == len(ids)
        assert {posted.id for posted in sent} <= set(ids)
        await post.nothing_for(client)
        queue = post.mailbox._queues.get("alice")
        assert queue is not None
        assert queue.holds_nothing
        await post.leave(client)


async def test_a_handler_reaches_it_through_the_application(sqlite_url: str) -> None:
    app = Application(auth=by_name, mailbox=Mailbox(sqlite_url))
    route = app.route("/ws", mailbox=True)

    @route.on("tell")
    async def tell(connection: Connection, whom: str) -> dict[str, int]:
        posted = await connection.application.mailbox.send(whom, "told", connection.user.id)
        return {"connections": posted.connections}

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, Config(port=0))
        async with trio.open_nursery() as streams:
            post = Post(server, app.mailbox, streams)
            alice = await post.connect("alice", "/ws")
            assert (await alice.request("tell", "bob"))["data"] == {"connections": 0}
            bob = await post.connect("bob", "/ws")
            assert await post.deliver(bob, 1) == ["alice"]
            streams.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
