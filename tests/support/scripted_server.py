"""The server's part of a transcript: it says what is written, and keeps what it hears."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from typing import Any, Final

import attrs
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from protocol import SUBPROTOCOL, Id
from protocol.generate.descriptions import EXAMPLES
from protocol.transcript import Step
from trioserver.client import WebSocketURL

WILDCARDS: Final[dict[str, Any]] = {
    "string": "text",
    "integer": 1000,
    "instant": "2030-01-01T00:00:00.000Z",
}
"""What is said where a step leaves it open."""

_ERROR: Final = {"message": "For people."}
_WHOLE: Final[dict[str, dict[str, Any]]] = {"error": _ERROR} | {
    EXAMPLES[name]["type"]: EXAMPLES[name]
    for name in ("Hello", "Ready", "AuthExpiring", "AuthRefreshed")
}
"""Fields that a message must have and a step need not."""


def whole(message: dict[str, Any]) -> dict[str, Any]:
    """A message to send, from a step that says only what matters to it."""
    said = _filled(message, _WHOLE.get(message["type"], {}))
    assert isinstance(said, dict)
    return said


def _filled(value: Any, sample: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "$any" in value:
        return value.get("at_most", WILDCARDS.get(value["$any"]))
    sample = sample if isinstance(sample, dict) else {}
    return sample | {name: _filled(inner, sample.get(name)) for name, inner in value.items()}


@attrs.define
class ScriptedServer:
    """Takes connections, and leaves it to the test what to say on them."""

    nursery: trio.Nursery
    attempts: list[float] = attrs.field(factory=list)
    peers: list[Peer] = attrs.field(factory=list)

    async def open_stream(self, address: WebSocketURL) -> trio.abc.Stream:
        """An `OpenStream` that leads here."""
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        self.attempts.append(trio.current_time())
        self.peers.append(Peer(theirs))
        self.nursery.start_soon(self.peers[-1].run)
        return ours


class Peer:
    """One connection. ``received``: what the client has sent and nobody has taken yet.

    ``path`` is that of the URL, ``close_code`` of the client's Close frame, None where there is
    none; ``gone``: the stream has ended.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.received: deque[dict[str, Any]] = deque()
        self.path: str | None = None
        self.pongs = 0
        self.close_code: int | None = None
        self.gone = False
        self._stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._text = ""

    async def run(self) -> None:
        """Hear the client out. It is answered nothing but the opening handshake."""
        while data := await self._receive():
            self._ws.receive_data(data)
            for event in self._ws.events():
                await self._hear(event)
        self.gone = True
        await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> bytes:
        with suppress(trio.BrokenResourceError):
            return bytes(await self._stream.receive_some())
        return b""

    async def _hear(self, event: Event) -> None:
        match event:
            case Request():
                self.path = event.target
                await self.send(AcceptConnection(subprotocol=SUBPROTOCOL))
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    self.received.append(json.loads(self._text))
                    self._text = ""
            case Pong():
                self.pongs += 1
            case CloseConnection():
                self.close_code = event.code
            case _:
                raise AssertionError(event)

    async def send(self, event: Event) -> None:
        """To a client that is gone nothing is sent."""
        if not self.gone:
            await self._stream.send_all(self._ws.send(event))

    async def say(self, message: dict[str, Any]) -> None:
        """Send a message."""
        await self.send(TextMessage(data=json.dumps(message)))

    async def play(self, step: Step, id: Id | None = None) -> dict[str, Any]:
        """Do a step of the server's; the message that was sent, empty where it is a frame.

        ``id``: of the client's, in place of the one that is written. Where the client has none,
        it did not ask, and gets one that it does not know.
        """
        said: dict[str, Any] = {}
        if step.message is not None:
            said = whole(step.message)
            if "id" in step.message or said["type"] == "pong":
                said["id"] = f"not-asked-{said.get('id')}" if id is None else id
            await self.say(said)
        elif step.close is not None:
            await self.send(CloseConnection(step.close.code, step.close.reason))
        else:
            await self.send(Ping(payload=b"x") if step.frame == "ping" else Pong(payload=b"x"))
        return said
