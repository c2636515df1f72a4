"""Every message that a server in this process sends or accepts, held against the schemas.

A fixture of all tests. What does not fit fails the test in which it was on the wire: the schemas
promise clients what can arrive, and what they may send.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import attrs
import jsonschema_rs
import pytest

from protocol import ServerProtocol
from protocol.codec import is_type_name
from protocol.generate.schema import messages_schema
from protocol.messages import Message
from trioserver.websocket.headers import Opcode
from trioserver.websocket.send_queue import SendQueue

_TEXT: Final = 0x80 | Opcode.TEXT
_OTHER_CONTENT: Final = ("websocket", "autobahn")
"""Folders of tests whose frames hold anything but messages."""


@lru_cache
def _validator(side: str) -> jsonschema_rs.Draft202012Validator:
    schema = messages_schema()
    whole = {"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": f"#/$defs/{side}"}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


@lru_cache(maxsize=4096)
def complaint(side: str, data: bytes) -> str | None:
    """What is wrong with a message of the side ``ClientMessage`` or ``ServerMessage``."""
    error = next(_validator(side).iter_errors(json.loads(data)), None)
    return None if error is None else f"{side} {data[:500]!r}: {error.message}"


@attrs.define
class WireMessages:
    """``complaints``: about what was on the wire. ``counts``: how many messages of each side."""

    complaints: list[str] = attrs.field(factory=list)
    counts: dict[str, int] = attrs.field(factory=dict)

    def add(self, side: str, data: bytes) -> None:
        """Judge a message; it was sent, or accepted."""
        self.counts[side] = self.counts.get(side, 0) + 1
        found = complaint(side, data)
        if found is not None:
            self.complaints.append(found)


def _is_unknown(message: Any) -> bool:
    """Answered with ``unknown_type``, since no application can have such a type."""
    return isinstance(message, Message) and not is_type_name(message.type)


def _payload(frame: bytes) -> bytes:
    length = frame[1]  # a server's frames are not masked
    return frame[{126: 4, 127: 10}.get(length, 2) :]


@pytest.fixture(autouse=True)
def wire_messages(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WireMessages]:
    """The messages of this test, judged at its end."""
    seen = WireMessages()
    if not set(_OTHER_CONTENT) & set(request.path.parts):
        put, receive = SendQueue.put_nowait, ServerProtocol.receive

        def put_nowait(send_queue: SendQueue, frame: bytes, **options: Any) -> None:
            if frame[0] == _TEXT:
                seen.add("ServerMessage", _payload(frame))
            put(send_queue, frame, **options)

        def receive_(session: ServerProtocol, data: bytes, now: float, **options: Any) -> Any:
            message = receive(session, data, now, **options)
            if message is not None and not _is_unknown(message):
                seen.add("ClientMessage", bytes(data))
            return message

        monkeypatch.setattr(SendQueue, "put_nowait", put_nowait)
        monkeypatch.setattr(ServerProtocol, "receive", receive_)
    yield seen
    assert not seen.complaints, "\n".join(seen.complaints)
