"""Every transcript of the protocol, replayed against the client in virtual time.

What this client never does is not done: text that is no message, binary, frames, words before
`ready`, silence at a ping. The server's answers to it are played all the same; those to a request
that was not made carry an id that the client does not know.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from protocol import Id, transcript
from protocol.errors import RETRIES
from protocol.fields import HEARTBEAT_MODES
from protocol.transcript import Step, Transcript, load, mismatch, names
from tests.client.playground import seeded
from tests.support.scripted_server import WILDCARDS, ScriptedServer
from trioserver.client import (
    Client,
    ClientError,
    CloseReason,
    ConnectionLostError,
    ConnectRejectedError,
    Event,
    RequestRejectedError,
    connect,
)

TOKENS: Final = {name: f"token-{name}" for name in transcript.TOKENS}
SPEAKABLE: Final = ("type", "token", "topic", "topics", "data")
"""Fields that the public API sets. Ids are the client's own choice; `connect` sets any field."""

TOO_BIG: Final = {"code": "message_too_big", "retry": "never"}

every_transcript = pytest.mark.parametrize("name", names())


@every_transcript
async def test_the_client_keeps_to_the_transcript(autojump_clock: MockClock, name: str) -> None:
    script = load(name)
    async with trio.open_nursery() as nursery:
        replay = Replay(nursery, script)
        await replay.begin()
        for step in script.steps:
            for _ in range(step.times):
                await trio.sleep_until(step.at_ms / 1000)
                await replay.play(step)
        replay.assert_over()


@every_transcript
async def test_the_client_comes_back_as_it_is_told(autojump_clock: MockClock, name: str) -> None:
    script = load(name)
    tokens: list[str] = []

    def token() -> str:
        tokens.append(f"token-{len(tokens)}")
        return tokens[-1]

    async def live() -> None:
        options: dict[str, Any] = {"open_stream": server.open_stream, "backoff": seeded()}
        with life, suppress(ClientError):
            async with connect(url(script), token=token, **options) as client:
                with leaving:
                    raise AssertionError(await anext(client.messages()))

    async with trio.open_nursery() as nursery:
        server, life, leaving = ScriptedServer(nursery), trio.CancelScope(), trio.CancelScope()
        nursery.start_soon(live)
        for step in script.steps:
            await trio.sleep_until(step.at_ms / 1000)
            await wait_all_tasks_blocked()
            if step.sender == "server":
                for _ in range(step.times):
                    await server.peers[0].play(step)
            elif step.close is not None or step.vanish:
                (life if step.vanish else leaving).cancel()
        ended, pause = trio.current_time(), pause_after(script)
        await trio.sleep(60)  # nobody answers a second attempt
        life.cancel()
    if pause is None:
        assert len(server.attempts) == 1
    else:
        assert server.attempts[1] == pytest.approx(ended + pause)
        first, second = (peer.received[0]["token"] for peer in server.peers[:2])
        assert first != second  # it was asked for anew


def pause_after(script: Transcript) -> float | None:
    """Seconds until the next attempt: "What to do for each `retry`" in docs/protocol.md."""
    said = [step.message for step in script.steps if step.sender == "server" and step.message]
    retry = next((message["retry"] for message in reversed(said) if message.get("fatal")), "never")
    if any(message["type"] == "goaway" for message in said):
        return float(WILDCARDS["integer"] / 1000)
    return {"never": None, "refresh_token": 0.0}.get(retry, seeded().delay(0))


def url(script: Transcript) -> str:
    return f"ws://server{script.setup.path}"


def words(step: Step) -> dict[str, Any]:
    """The message that a step of the client's sends; empty where it is garbage, or none."""
    if step.message is None and step.repeat is None:
        return {}
    try:
        message = json.loads(step.payload(TOKENS) or b"")
    except (ValueError, RecursionError):
        return {}
    assert isinstance(message, dict)
    if "events" in message:
        message["topics"] = message.pop("events")  # its older name
    return {name: value for name, value in message.items() if value is not None or name == "data"}


class Call:
    """Something that the client is asked for, under the transcript's id and under its own.

    ``heard``: what came of it that no step has explained so far.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message
        self.type: str = message["type"]
        self.id: Id | None = None
        self.heard: list[Any] = []
        self.leave = trio.CancelScope()
        self.over = trio.Event()

    @property
    def wanted(self) -> dict[str, Any]:
        """What must be sent, without what the public API has no way to say."""
        fields = SPEAKABLE if self.type != "ping" else ("type",)
        return {name: self.message[name] for name in fields if name in self.message}

    async def run(self, client: Client, others: list[Call]) -> None:
        try:
            await self._ask(client, others)
        except RequestRejectedError as error:
            self.heard.append((error.code, error.retry, error.retry_after))
        except ConnectionLostError as error:
            self.heard.append(error.reason)
        self.over.set()

    async def _ask(self, client: Client, others: list[Call]) -> None:
        message, hear, data = self.message, self.heard.append, self.message.get("data")
        match self.type:
            case "ping":
                await client.ping()
                hear("pong")
            case "auth":
                await client.refresh(message["token"])
                hear("auth_refreshed")
            case "publish":
                await client.publish(message["topic"], data)
                hear("ack")
            case "unsubscribe":
                (subscription,) = (call for call in others if call.type == "subscribe")
                subscription.leave.cancel()
                await subscription.over.wait()
                hear("ack")
            case "subscribe":
                async with client.subscribe(*message["topics"]) as events:
                    hear("ack")
                    with self.leave:
                        async for event in events:
                            hear(event)
                        hear(client.close_reason)
            case "count" | "forever":
                async with client.stream(self.type, data) as chunks:
                    with self.leave:
                        async for chunk in chunks:
                            hear(chunk)
                hear(("end", self.leave.cancelled_caught))
            case _ if "id" in message:
                hear(await client.request(self.type, data))
            case _:
                await client.send(self.type, data)

    def hears(self, said: dict[str, Any]) -> bool:
        """Whether an event is for this one."""
        return self.type == "subscribe" and said.get("topic") in self.message["topics"]

    @staticmethod
    def refusal(error: dict[str, Any]) -> tuple[Any, ...]:
        """Code, advice, and seconds."""
        after = error.get("retry_after_ms")
        retry = error["retry"] if error["retry"] in RETRIES else "backoff"
        return error["code"], retry, None if after is None else after / 1000

    def expected(self, said: dict[str, Any]) -> Any:
        """What must be heard when the server says this."""
        match said["type"]:
            case "ack":
                reserved = self.type in ("subscribe", "unsubscribe", "publish")
                return "ack" if reserved else said.get("data")
            case "error":
                return self.refusal(said)
            case "chunk":
                return said["data"]
            case "end":
                return "end", bool(said.get("cancelled"))
            case "event":
                return Event(said["topic"], said["offset"], said["data"])
            case other:
                return other


class Replay:
    """Asks the client for what the transcript's client does, and judges what comes of it."""

    def __init__(self, nursery: trio.Nursery, script: Transcript) -> None:
        self._nursery = nursery
        self._script = script
        self._server = ScriptedServer(nursery)
        first = next((words(step) for step in script.steps if step.sender == "client"), {})
        self._opening = first if first.get("type") in ("auth", "initial") else {"type": "auth"}
        self._client: Client | None = None
        self._error: ConnectRejectedError | ConnectionLostError | None = None
        self._leaving, self._vanishing = trio.CancelScope(), trio.CancelScope()
        self._over = False
        self._ready = False
        self._fatal: dict[str, Any] | None = None
        self._calls: list[Call] = []
        self._unsaid: set[Id | None] = set()
        self._unspeakable: list[Step] = []

    async def begin(self) -> None:
        """Connect; the first message comes by itself."""
        self._nursery.start_soon(self._live)
        await wait_all_tasks_blocked()
        (self._peer,) = self._server.peers
        assert self._peer.path == self._script.setup.path
        assert mismatch(self._opening, self._peer.received.popleft()) is None

    async def _live(self) -> None:
        fields = dict(self._opening)
        options: dict[str, Any] = {"open_stream": self._server.open_stream, "reconnect": False}
        known = {"token": fields.get("token"), "heartbeat": fields.get("heartbeat")}
        if known["heartbeat"] not in HEARTBEAT_MODES:  # a word of a newer client
            del known["heartbeat"]
        options |= {name: fields.pop(name) for name in known if name in fields}
        options["initial"] = None if fields == {"type": "auth"} else fields
        with self._vanishing:
            try:
                async with connect(url(self._script), **options) as self._client:
                    with self._leaving:
                        raise AssertionError(await anext(self._client.messages()))
            except (ConnectRejectedError, ConnectionLostError) as error:
                self._error = error
        self._over = True

    async def play(self, step: Step) -> None:
        """Do a step; what is written follows, and nothing else."""
        if step.sender == "server":
            await self._hear(step)
        elif step.close is not None or step.vanish:
            await self._leave(step)
        elif step.sender == "client":
            message = words(step)
            if self._client is not None and self._can_say(message):
                await self._say(self._client, message)
            else:
                self._unsaid.add(message.get("id"))
                if not self._comes_by_itself(message):
                    self._unspeakable.append(step)
        assert (self._client is not None) == self._ready
        assert not self._peer.received

    def _comes_by_itself(self, message: dict[str, Any]) -> bool:
        """The first message, and what answers a ping."""
        opening = self._client is None and message.get("type") in ("auth", "initial")
        return opening or message.get("type") == "pong" or not message

    def assert_over(self) -> None:
        if "client" in self._script.audience:
            assert not self._unspeakable, "its audience says that a client can be asked for this"
        assert self._over
        assert self._peer.gone
        assert not self._calls
        assert len(self._server.attempts) == 1

    # -------------------------------------------------------------------------- the client's steps

    def _can_say(self, message: dict[str, Any]) -> bool:
        match message.get("type"):
            case None | "pong":  # the client answers a ping by itself
                return False
            case "cancel":
                return "id" in message and self._find(message["id"]) is not None
            case "subscribe" | "unsubscribe":
                return bool(message.get("topics"))
            case "publish":
                return "data" in message
            case "auth":
                return isinstance(message.get("token"), str)
            case _:
                return True

    async def _say(self, client: Client, message: dict[str, Any]) -> None:
        if message["type"] == "cancel":
            call = self._find(message["id"])
            assert call is not None
            call.leave.cancel()
            await wait_all_tasks_blocked()
            assert self._peer.received.popleft() == {"type": "cancel", "id": call.id}
            return
        call = Call(message)
        self._nursery.start_soon(call.run, client, self._calls)
        await wait_all_tasks_blocked()
        self._calls.append(call)
        assert client.ready is not None
        if len(json.dumps(message)) > client.ready.limits.max_message_bytes:
            self._judge({"type": "error", **TOO_BIG}, [call])  # it knows better than to send that
            return
        sent = self._peer.received.popleft()
        sent.get("topics", []).sort()  # they are a set
        assert mismatch(call.wanted, sent) is None
        call.id = sent.get("id")
        assert call.over.is_set() == (call.id is None)
        if call.type == "publish" and "id" not in message:  # this client always asks for an answer
            await self._peer.say({"type": "ack", "id": call.id})
            await wait_all_tasks_blocked()
            self._judge({"type": "ack"}, [call])

    async def _leave(self, step: Step) -> None:
        goodbye = step.close is not None and self._client is not None
        (self._leaving if goodbye else self._vanishing).cancel()
        await wait_all_tasks_blocked()
        assert self._peer.gone == self._over == (not goodbye)
        assert self._peer.close_code == (step.close.code if step.close and goodbye else None)
        self._judge({}, [])

    # -------------------------------------------------------------------------- the server's steps

    async def _hear(self, step: Step) -> None:
        message, pongs = step.message or {}, self._peer.pongs
        asked = message.get("id") is not None or message.get("type") == "pong"
        call = self._find(message.get("id")) if asked else None
        assert call is not None or not asked or message.get("id") in self._unsaid
        said = await self._peer.play(step, self._opening.get("id") if call is None else call.id)
        await wait_all_tasks_blocked()
        if step.close is not None:
            self._judge_end(step.close.code)
        if said.get("fatal"):
            self._fatal, call = said, None  # whoever asked hears of it at the end
        match said.get("type"):
            case "ready":
                self._ready = True
                assert self._client is not None
                assert mismatch(said, msgspec.to_builtins(self._client.ready)) is None
            case "ping":
                assert self._peer.received.popleft() == {"type": "pong"}
        assert self._peer.pongs == pongs + (step.frame == "ping")
        hearers = [] if call is None else [call]
        hearers += [subscription for subscription in self._calls if subscription.hears(said)]
        assert hearers or said.get("type") != "event"
        self._judge(said, hearers)

    def _find(self, id: Id | None) -> Call | None:
        """The newest that is asked under this id: 1 is not "1"."""
        calls = (c for c in reversed(self._calls) if mismatch(id, c.message.get("id")) is None)
        return next(calls, None)

    def _judge(self, said: dict[str, Any], hearers: list[Call]) -> None:
        for call in self._calls:
            if self._over:
                assert self._client is not None
                expected = [self._client.close_reason]
            else:
                expected = [call.expected(said)] if call in hearers else []
            assert call.heard == expected, call.message
            call.heard.clear()
        self._calls = [call for call in self._calls if not call.over.is_set()]

    def _judge_end(self, close_code: int) -> None:
        assert self._over
        fatal, error = self._fatal, self._error
        if fatal is None:
            assert error is None
            return
        assert type(error) is (ConnectionLostError if self._ready else ConnectRejectedError)
        code, retry, after = Call.refusal(fatal)
        assert error.reason == CloseReason(code, fatal["message"], retry, after, close_code)
        assert self._client is None or self._client.close_reason == error.reason
        assert self._peer.close_code == close_code
