"""A client for tests: wsproto over any stream, JSON in and out, and every way to misbehave."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

Message = dict[str, Any]


@attrs.frozen
class Closed:
    """How the server closed: code and reason of its Close frame, 1006 where none came."""

    code: int
    reason: str


class Ended(Exception):
    """There is nothing more to receive."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed)
        self.closed = closed


class Rejected(Exception):
    """The server answered the handshake with another HTTP status than 101."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def masked(**message: Any) -> bytes:
    """A message as a frame, for sending several in one segment."""
    return masked_frame(0x1, json.dumps(message).encode())


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """A frame, unfragmented, of whatever; the mask is zero."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 2**16:
        length = bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


class Client:
    """One connection. What is received beside messages is noted in the attributes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.answer_ping = True
        self.answer_close = True
        self.pings = 0
        self.pongs: list[bytes] = []
        self.rejected_with: dict[bytes, bytes] = {}  # headers
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._messages: deque[str] = deque()
        self._closed: Closed | None = None
        self._accepted = False
        self._body = b""

    async def open(
        self,
        path: str,
        *,
        subprotocols: list[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Do the opening handshake. Raises `Rejected`."""
        more = [(name.replace("_", "-"), value) for name, value in (headers or {}).items()]
        await self.send_event(
            Request(
                host="server",
                target=path,
                subprotocols=subprotocols or ["trioserver.v1"],
                extra_headers=[(name.encode(), value.encode()) for name, value in more],
            )
        )
        while not self._accepted:
            await self._receive_some()

    async def send_event(self, event: Event) -> None:
        await self.stream.send_all(self._ws.send(event))

    async def send_text(self, text: str) -> None:
        await self.send_event(TextMessage(data=text))

    async def send(self, **message: Any) -> None:
        """Send a message, its fields as keywords."""
        await self.send_text(json.dumps(message))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, past every rule."""
        await self.stream.send_all(data)

    async def receive(self) -> Message:
        """The next message. Raises `Ended`."""
        while not self._messages:
            if self._closed is not None:
                raise Ended(self._closed)
            await self._receive_some()
        message = json.loads(self._messages.popleft())
        assert isinstance(message, dict)
        return message

    async def receive_until(self, type: str) -> Message:
        """The next message of a type; those before it are dropped."""
        while True:
            message = await self.receive()
            if message["type"] == type:
                return message

    async def receive_end(self) -> tuple[list[Message], Closed]:
        """All messages up to the end, and how it ended."""
        messages = []
        while True:
            try:
                messages.append(await self.receive())
            except Ended as ended:
                return messages, ended.closed

    async def authenticate(self, token: str = "alice", **more: Any) -> Message:
        """From `hello` to `ready`, which is returned."""
        await self.receive_until("hello")
        await self.send(type="auth", token=token, **more)
        message = await self.receive()
        assert message["type"] == "ready", message
        return message

    async def request(self, type: str, data: Any = None, *, id: int | str = 1) -> Message:
        """Send a request and return the next message."""
        await self.send(type=type, id=id, data=data)
        return await self.receive()

    async def close(self, code: int = 1000) -> Closed:
        """Close, and wait for the server's answer."""
        await self.send_event(CloseConnection(code=code))
        return (await self.receive_end())[1]

    def vanish(self) -> None:
        """Be gone, without a word."""
        closers = (self.stream.send_stream, self.stream.receive_stream)  # type: ignore[attr-defined]
        for half in closers:
            half.close()

    async def _receive_some(self) -> None:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self._closed = self._closed or Closed(1006, "")
            if not self._accepted:
                raise Ended(self._closed)
            return
        self._ws.receive_data(bytes(data))
        for event in self._ws.events():
            await self._handle(event)

    async def _handle(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                self._accepted = True
            case RejectConnection():
                self._status = event.status_code
                self.rejected_with = dict(event.headers)
            case RejectData():
                self._body += event.data
                if event.body_finished:
                    raise Rejected(self._status, self._body)
            case TextMessage():
                self._text = getattr(self, "_text", "") + event.data
                if event.message_finished:
                    self._messages.append(self._text)
                    self._text = ""
            case BytesMessage():
                raise AssertionError("the server never sends binary messages")
            case Ping():
                self.pings += 1
                if self.answer_ping:
                    await self._answer(event.response())
            case Pong():
                self.pongs.append(bytes(event.payload))
            case CloseConnection():
                self._closed = Closed(event.code, event.reason or "")
                if self.answer_close and self._ws.state.name == "REMOTE_CLOSING":
                    await self._answer(event.response())

    async def _answer(self, event: Event) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.send_event(event)
