"""The pseudo-code of ``docs/protocol.md``, run against a server in virtual time."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import tests.protocol.pseudo_client
from tests.protocol.pseudo_client import ConnectFailed, Ended, PseudoClient, Socket
from tests.support.app import Harness, serving
from tests.support.client import Client, Rejected
from tests.support.client import Ended as StreamEnded
from tests.support.markdown import blocks
from trioserver import AuthConfig, Config, HeartbeatConfig, LimitsConfig, ShutdownConfig

_MARK: Final = "#|"


def test_the_translation_has_each_line_of_the_page_in_its_order() -> None:
    (page,) = (text for text in blocks(Path("docs/protocol.md"), "text") if "loop:" in text)
    source = Path(tests.protocol.pseudo_client.__file__).read_text()
    comments = [line.strip() for line in source.splitlines() if line.strip().startswith(_MARK)]
    assert [line[len(_MARK) + 1 :] for line in comments] == page.splitlines()


@attrs.define
class WebSocket(Socket):
    """The client of the tests, as the pseudo-code wants a WebSocket.

    ``dead``: what the server sends is lost on the way.
    """

    client: Client
    dead: bool = False

    async def send(self, text: str) -> None:
        try:
            await self.client.send_text(text)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()  # what is received says that it has ended

    async def receive(self) -> str:
        try:
            text = json.dumps(await self.client.receive())
            if self.dead:
                await trio.sleep_forever()
            return text
        except StreamEnded as ended:
            raise Ended(ended.closed.code, ended.closed.reason) from None

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.client.vanish()


class Longest(random.Random):
    """Every pause is as long as it may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


@attrs.define
class Call:
    """A request of the program's."""

    answers: list[Any] = attrs.field(factory=list)

    def succeed(self, data: Any) -> None:
        self.answers.append(("ok", data))

    def chunk(self, data: Any) -> None:
        self.answers.append(("chunk", data))

    def fail(self, error: dict[str, Any] | None) -> None:
        self.answers.append(("failed", None if error is None else error["code"]))


@attrs.define(slots=False)
class Session:
    """A `PseudoClient` in front of a server, and what the tests look at.

    ``attempts``: when it tried to connect. ``tokens``: those that it fetched. ``sent``: the tokens
    of the first messages. ``up``: whether there is a server.
    """

    harness: Harness
    token: Callable[[int], str]
    path: str = "/ws/1"
    up: bool = True
    attempts: list[float] = attrs.field(factory=list)
    tokens: list[str] = attrs.field(factory=list)
    ready: int = 0
    sockets: list[WebSocket] = attrs.field(factory=list)
    client: PseudoClient = attrs.field(init=False)
    over: trio.Event = attrs.field(factory=trio.Event)
    topics: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        self.client = PseudoClient(self.connect, self.fetch_token, self.on_ready, Longest())

    async def connect(self) -> Socket:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if not self.up:
            raise ConnectFailed
        try:
            self.sockets.append(WebSocket(await self.harness.connect(self.path)))
        except Rejected as rejected:
            raise ConnectFailed(rejected.status) from None
        return self.sockets[-1]

    async def fetch_token(self) -> str:
        await trio.lowlevel.checkpoint()
        self.tokens.append(self.token(len(self.tokens)))
        return self.tokens[-1]

    async def on_ready(self, client: PseudoClient) -> None:
        self.ready += 1
        if self.topics:
            await client.send(type="subscribe", topics=self.topics)

    async def run(self) -> None:
        await self.client.run()
        self.over.set()

    async def ask(self, type: str, data: Any = None) -> Call:
        call, id = Call(), self.client.next_id()
        self.client.waiting[id] = call
        await self.client.send(type=type, id=id, data=data)
        return call


@asynccontextmanager
async def session(
    token: Callable[[int], str], *, config: Config | None = None, **more: Any
) -> AsyncIterator[Session]:
    async with serving(config) as harness, trio.open_nursery() as nursery:
        played = Session(harness, token, **more)
        nursery.start_soon(played.run)
        yield played
        nursery.cancel_scope.cancel()


async def test_it_asks_and_is_answered(autojump_clock: MockClock) -> None:
    async with session(lambda n: "alice", topics=("news",)) as played:
        await trio.sleep(1)
        echo = await played.ask("echo", {"text": "hi"})
        count = await played.ask("count", {"to": 2})
        refused = await played.ask("refuse")
        ping = await played.ask("ping", 1)
        await played.client.send(type="publish", topic="news", data=7)
        await played.client.send(type="no_such_type")
        await trio.sleep(1)
        assert echo.answers == [("ok", {"text": "hi"})]
        assert count.answers == [("chunk", {"n": 0}), ("chunk", {"n": 1}), ("ok", None)]
        assert refused.answers == [("failed", "not_found")]
        assert ping.answers == [("ok", 1)]
        assert played.client.events == [("news", 7)]
        assert played.client.logged == ["unknown_type"]
        assert not played.client.waiting


async def test_it_answers_the_heartbeat_and_stays(autojump_clock: MockClock) -> None:
    config = Config(port=0, heartbeat=HeartbeatConfig(interval=30.0, timeout=10.0))
    async with session(lambda n: "alice", config=config) as played:
        await trio.sleep(600)
        assert (played.ready, len(played.attempts)) == (1, 1)


async def test_it_notices_a_server_that_says_nothing_any_more(autojump_clock: MockClock) -> None:
    async with session(lambda n: "alice") as played:
        await trio.sleep(1)
        played.sockets[0].dead = True
        call = await played.ask("slow", {"ms": 1})
        await trio.sleep(120)
        assert played.ready == 2
        assert call.answers == [("failed", None)]
        assert 40.0 < played.attempts[1] < 41.0  # 30 s and 10 s after the last sign of life


async def test_it_renews_the_token_before_it_ends(autojump_clock: MockClock) -> None:
    config = Config(port=0, auth=AuthConfig(expiry_warning=2.0))
    async with session(lambda n: "alice:10", config=config) as played:
        await trio.sleep(60)
        assert (played.ready, len(played.attempts)) == (1, 1)
        assert len(played.tokens) > 5


async def test_an_expired_token_is_never_sent_twice(autojump_clock: MockClock) -> None:
    async with session(lambda n: "expired") as played:
        await trio.sleep(100)
        pauses = [b - a for a, b in pairwise(played.attempts)]
        assert pauses == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0])
        assert len(played.tokens) == len(played.attempts)


async def test_a_session_whose_tokens_expire_goes_on_at_once(autojump_clock: MockClock) -> None:
    async with session(lambda n: "alice:40") as played:
        played.client.renew = trio.lowlevel.checkpoint  # type: ignore[method-assign]
        await trio.sleep(170)
        assert played.attempts == pytest.approx([0.0, 40.0, 80.0, 120.0, 160.0], abs=0.1)
        assert len(played.tokens) == played.ready == 5


async def test_tokens_that_hardly_live_make_no_storm(autojump_clock: MockClock) -> None:
    async with session(lambda n: "alice:1") as played:
        played.client.renew = trio.lowlevel.checkpoint  # type: ignore[method-assign]
        await trio.sleep(60)
        pauses = [b - a - 1.0 for a, b in pairwise(played.attempts)]
        assert pauses == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], abs=0.1)


async def test_what_is_refused_for_good_is_told_and_not_tried_again(
    autojump_clock: MockClock,
) -> None:
    async with session(lambda n: "forged") as played:
        await played.over.wait()
        assert played.client.told == "token_invalid"
        assert len(played.attempts) == 1
    async with session(lambda n: "alice", path="/ws/2") as played:
        await played.over.wait()
        assert played.client.told == "access_denied"
    async with session(lambda n: "alice", path="/no/such/path") as played:
        await played.over.wait()
        assert played.client.told == "http_404"


async def test_never_counts_also_after_a_goaway(autojump_clock: MockClock) -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=20.0))
    async with session(lambda n: "alice", config=config) as played:
        await trio.sleep(1)
        played.harness.server.start_draining()
        await wait_all_tasks_blocked()
        played.harness.server.disconnect(user="alice")
        await played.over.wait()
        assert played.client.told == "disconnected"


async def test_it_comes_back_in_its_slot_and_keeps_trying_while_there_is_no_server(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=20.0))
    async with session(lambda n: "alice", config=config) as played:
        await trio.sleep(1)
        call = await played.ask("slow", {"ms": 60_000})
        played.up = False
        await played.harness.server.drain()
        await trio.sleep(30)
        assert call.answers == [("failed", None)]
        assert len(played.attempts) > 3, "the port is closed, so it waits as for `backoff`"
        assert not played.over.is_set()
        async with serving() as other:
            played.harness, played.up = other, True
            await trio.sleep(60)
            assert played.ready == 2
            assert played.tokens == ["alice"], "a token that is good is kept"


async def test_it_waits_while_the_server_is_unavailable(autojump_clock: MockClock) -> None:
    async with session(lambda n: "alice") as played:
        played.harness.world.authorizer_error = OSError("the database is gone")
        await trio.sleep(20)
        assert played.ready == 0
        assert 3 < len(played.attempts) < 30
        played.harness.world.authorizer_error = None
        await trio.sleep(60)
        assert played.ready == 1
        assert played.tokens == ["alice"]


async def test_it_slows_down_when_it_is_told_to(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(messages_per_second=2))
    async with session(lambda n: "alice", config=config) as played:
        await trio.sleep(1)
        calls = [await played.ask("note") for _ in range(5)]
        await trio.sleep(1)
        assert [call.answers for call in calls[:4]] == [[("ok", None)]] * 4
        assert calls[4].answers == [("failed", "rate_limited")]
        assert len(played.attempts) == 1
