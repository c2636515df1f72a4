"""The server that the transcripts are written for, with no socket and no clock.

`Application` is the test application of ``docs/protocol.md``; `Wire` is what a server adds to a
`ServerProtocol`: the verification, the heartbeat, the drain.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from protocol import ProtocolOptions, Refusal, ServerProtocol, codec, transcript
from protocol.fields import raw
from protocol.messages import (
    Ack,
    Auth,
    Cancel,
    Chunk,
    End,
    Event,
    Goaway,
    Message,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
)
from protocol.transcript import Step, Transcript

WALL = 1_900_000_000.0
OWNERS = {"1": "alice", "2": "bob"}
TOKENS = {name: f"token-{name}" for name in transcript.TOKENS}
USERS = {
    TOKENS["valid"]: ("alice", 3600.0),
    TOKENS["short_lived"]: ("alice", 4.0),
    TOKENS["other_user"]: ("bob", 3600.0),
}
REFUSED = {TOKENS[name]: f"token_{name}" for name in ("expired", "not_yet_valid", "revoked")}


class Text(msgspec.Struct):
    text: str


class To(msgspec.Struct):
    to: int


class Delay(msgspec.Struct):
    ms: int


class Wire:
    """A server without sockets: time is set with `advance`, what it says collects in ``said``."""

    def __init__(self, script: Transcript) -> None:
        given = msgspec.to_builtins(script.setup.server)
        self.resource = script.setup.resource
        self.authorization_timeout = given.pop("authorization_timeout_ms", 5000) / 1000
        self.drain = given.pop("drain_ms", 1000) / 1000
        options: dict[str, Any] = {
            key.removesuffix("_ms"): value / 1000 if key.endswith("_ms") else value
            for key, value in given.items()
        }
        self.options = ProtocolOptions(auth_aliases=frozenset({"initial"}), **options)
        self.now = 0.0
        self.said: list[tuple[float, str, Any]] = []
        self.session = ServerProtocol(self.options, 0.0)
        self.authorization = "answers"
        self.heard = 0.0
        self.gone = False
        self._user = ""
        self._verify: tuple[int, Auth] | None = None
        self._verifications = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.application = Application(self)
        self.session.start()
        self.flush()

    # ---------------------------------------------------------------------------- time

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), action))

    def advance(self, until: float) -> None:
        while (due := self._next()) is not None and due <= until:
            self.now = max(self.now, due)
            if self.session.deadline == due:
                self.session.tick(self.now, WALL + self.now)
            else:
                heapq.heappop(self._timers)[2]()
            self.flush()
        self.now = until

    def _next(self) -> float | None:
        if self.gone or self.session.close is not None:
            return None
        times = [timer[0] for timer in self._timers[:1]]
        return min(
            [*times, *([] if self.session.deadline is None else [self.session.deadline])],
            default=None,
        )

    def say(self, message: Any) -> None:
        self.session.outgoing.append(codec.encode(message))

    def flush(self) -> None:
        for data in self.session.outgoing:
            self.said.append((self.now, "message", json.loads(data)))
        self.session.outgoing.clear()
        if self.session.close is not None and not self.gone:
            close = {"code": self.session.close.code, "reason": self.session.close.reason}
            self.said.append((self.now, "close", close))
            self.gone = True

    # ---------------------------------------------------------------------------- the peer

    def hear(self, step: Step) -> None:
        self.heard = self.now
        data = step.payload(TOKENS)
        if step.vanish:
            self.gone = True
        elif step.close is not None:
            self.session.end()
        elif step.frame == "ping":
            self.said.append((self.now, "frame", "pong"))
        elif step.binary is not None:
            self.session.fail(Refusal("binary_unsupported"))
        elif data is not None:
            self._dispatch([self.session.receive(data, self.now)])
        self.flush()

    def operate(self, what: str) -> None:
        if what == "shutdown":
            slot = self.drain / 2
            if self.session.is_ready:
                self.say(Goaway(reason="shutdown", deadline_ms=500, reconnect_after_ms=700))
            self.after(slot, lambda: self.session.fail(Refusal("shutdown")))
        elif what == "disconnect":
            self.session.fail(Refusal("disconnected"))
        else:
            self.authorization = what.removeprefix("authorization_").replace("recovers", "answers")
            if self._verify is not None and self.authorization == "answers":
                self._verified(*self._verify)
        self.flush()

    def _dispatch(self, received: list[Any]) -> None:
        for message in received:
            if isinstance(message, Auth):
                self._authenticate(message)
            elif isinstance(message, Ping):
                self.session.outgoing.append(self.session.pong(message, WALL + self.now))
            elif message is not None and not isinstance(message, Pong):
                self.application.handle(message)

    # ---------------------------------------------------------------------------- verification

    def _authenticate(self, auth: Auth) -> None:
        token = auth.token or ""
        if not token or token not in USERS:
            code = REFUSED.get(token, "token_invalid") if token else "token_missing"
            self.session.fail(Refusal(code), id=auth.id)
        elif self.session.is_ready and USERS[token][0] != self._user:
            self.session.fail(Refusal("access_denied"), id=auth.id)
        elif self.authorization == "fails":
            self._unavailable(auth)
        else:
            number = next(self._verifications)
            self._verify = (number, auth)
            if self.authorization == "answers":
                self._verified(number, auth)
            else:
                self.after(self.authorization_timeout, lambda: self._give_up(number, auth))

    def _give_up(self, number: int, auth: Auth) -> None:
        if self._verify is not None and self._verify[0] == number:
            self._unavailable(auth)

    def _unavailable(self, auth: Auth) -> None:
        self._verify = None
        if self.session.is_ready:
            self.session.reject_refresh(Refusal("unavailable"), self.now)
        else:
            self.session.fail(Refusal("unavailable"), id=auth.id)

    def _verified(self, number: int, auth: Auth) -> None:
        self._verify = None
        user, lifetime = USERS[auth.token or ""]
        wall, until = WALL + self.now, WALL + lifetime
        if OWNERS.get(self.resource["thing_id"]) != user:
            self.session.fail(Refusal("access_denied"), id=auth.id)
        elif self.session.is_ready:
            self.session.accept_refresh(now=self.now, wall=wall, expires_at=until)
        else:
            self._user = user
            self.session.accept_auth(
                now=self.now,
                wall=wall,
                connection_id="c1",
                user={"id": user},
                resource=self.resource,
                expires_at=until,
            )
            self._beat_later()
            self._dispatch(list(self.session.receive_held(self.now)))

    # ---------------------------------------------------------------------------- heartbeat

    def _beat_later(self) -> None:
        self.after(self.options.heartbeat_interval, self._beat)

    def _beat(self) -> None:
        if self.session.heartbeat == "message":
            self.say(Ping())
        else:
            self.said.append((self.now, "frame", "ping"))
        asked = self.now
        self.after(self.options.heartbeat_timeout, lambda: self._judge_silence(asked))
        self._beat_later()

    def _judge_silence(self, asked: float) -> None:
        if self.heard < asked:
            self.session.fail(Refusal("heartbeat_timeout"))


class Application:
    """The handlers and topics that each transcript counts on."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.session = wire.session
        self.topics: set[str] = set()
        self.offset = 0
        self.streams: dict[Any, Iterator[int]] = {}
        self.busy_until = 0.0

    def handle(self, message: Any) -> None:
        try:
            if isinstance(message, Cancel):
                self._cancel(message)
            elif isinstance(message, Subscribe | Unsubscribe):
                self._subscribe(message)
            elif isinstance(message, Publish):
                self._publish(message)
            else:
                self._call(message)
        except Refusal as refusal:
            self.session.refuse(refusal, self.wire.now, id=message.id)

    def _ack(self, id: Any, data: Any = msgspec.UNSET) -> None:
        if id is not None:
            self.wire.say(Ack(id=id, data=raw(data) if data is not msgspec.UNSET else data))

    def _cancel(self, message: Cancel) -> None:
        if self.streams.pop(message.id, None) is not None:
            self._end(message.id, cancelled=True)

    def _end(self, id: Any, *, cancelled: bool = False) -> None:
        self.session.finish(id)
        self.wire.say(End(id=id, cancelled=cancelled))

    def _subscribe(self, message: Subscribe | Unsubscribe) -> None:
        topics = message.topics or message.events
        if topics is None:
            raise Refusal("invalid_payload")
        if "secret" in topics:
            raise Refusal("forbidden")
        if isinstance(message, Subscribe):
            self.topics.update(topics)
        else:
            self.topics.difference_update(topics)
        self._ack(message.id)

    def _publish(self, message: Publish) -> None:
        if message.topic == "secret":
            raise Refusal("forbidden")
        self.offset += 1
        if message.topic in self.topics:
            self.wire.say(Event(topic=message.topic, offset=self.offset, data=message.data))
        self._ack(message.id, {"offset": self.offset})

    def _call(self, message: Message) -> None:
        now = self.wire.now
        match message.type:
            case "echo":
                text = self._read(message, Text).text
                delay = max(0.0, self.busy_until - now)
                self._later(delay, lambda: self._ack(message.id, {"text": text}))
            case "slow":
                self.busy_until = now + self._read(message, Delay).ms / 1000
                self._later(self.busy_until - now, lambda: self._ack(message.id))
            case "fail":
                raise Refusal("internal_error")
            case "refuse":
                raise Refusal("not_found")
            case "count":
                self._stream(message.id, iter(range(self._read(message, To).to)), 0.0)
            case "forever":
                self._stream(message.id, itertools.count(), 1.0)
            case _:
                raise Refusal("unknown_type")

    def _read(self, message: Message, type_: type[Any]) -> Any:
        return codec.decode_payload(codec.payload_decoder(type_), message)

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        if delay > 0:
            self.wire.after(delay, action)
        else:
            action()

    def _stream(self, id: Any, values: Iterator[int], pause: float) -> None:
        self.session.begin(id)
        self.streams[id] = values
        self._chunk(id, values, 0, pause)

    def _chunk(self, id: Any, values: Iterator[int], seq: int, pause: float) -> None:
        if self.streams.get(id) is not values:
            return
        value = next(values, None)
        if value is None:
            del self.streams[id]
            self._end(id)
        else:
            self.wire.say(Chunk(id=id, seq=seq, data=raw({"n": value})))
            self._later(pause, lambda: self._chunk(id, values, seq + 1, pause))


@pytest.fixture
def server() -> type[Wire]:
    """Give it a transcript: it is the server that one is written for."""
    return Wire
