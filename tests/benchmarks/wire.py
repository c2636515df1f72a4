"""The client's side of RFC 6455, as little as a load generator can do with.

Requests are built before the clock starts, all of one size. Of what a server sends, the headers of
frames are looked at, and the id of the last answer.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Final

import msgspec

TEXT: Final = 0x81
CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A

FIRST_ID: Final = 100_000
"""Ids have six digits, so that all requests have one size."""

_NUMBERS: Final = 4096
_MOST_BYTES: Final = 32 * 1024 * 1024
_FEWEST: Final = 32

_MASK: Final = bytes.fromhex("37fa213d")  # that of RFC 6455, section 5.7; random ones cost the same


class Refused(Exception):
    """The server has said no, or something that it should not say."""


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A masked frame."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode, 0xFF)) + size.to_bytes(8, "big")
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + _MASK + masked.to_bytes(size, "big")


def message(**fields: Any) -> bytes:
    """A masked frame with a JSON object."""
    return frame(msgspec.json.encode(fields))


def upgrade(host: str, path: str) -> bytes:
    """A request for a WebSocket, without extensions."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    )
    return "\r\n".join((*lines, "", "")).encode()


class Requests:
    """Numbered requests of ``message_bytes`` each, as frames that lie one behind the other."""

    def __init__(self, message_bytes: int) -> None:
        self.numbers = max(_FEWEST, min(_NUMBERS, _MOST_BYTES // message_bytes))
        without_text = len(self._message(FIRST_ID, ""))
        text = "x" * max(0, message_bytes - without_text)
        frames = [frame(self._message(FIRST_ID + n, text)) for n in range(self.numbers)]
        self._size = len(frames[0])
        self._frames = memoryview(b"".join(frames))

    @staticmethod
    def _message(id: int, text: str) -> bytes:
        return b'{"type":"message","id":%d,"data":{"text":"%s"}}' % (id, text.encode())

    def take(self, start: int, count: int) -> bytes | memoryview:
        """Requests number ``start`` and the ``count - 1`` after it; after the last the first."""
        begin = start % self.numbers
        end = begin + count
        if end <= self.numbers:
            return self._frames[begin * self._size : end * self._size]
        first = self._frames[begin * self._size :]
        return bytes(first) + bytes(self.take(0, end - self.numbers))


class Reader:
    """Counts the text messages in what a server sends. Servers do not mask, and do not fragment."""

    __slots__ = ("_complete", "_data", "_rest", "pings")

    def __init__(self) -> None:
        self._rest = b""
        self._data = b""
        self._complete = 0
        self.pings: list[bytes] = []

    def feed(self, data: bytes) -> int:
        """How many messages ``data`` completes. Raises `Refused` where the server closes."""
        if self._rest:
            data = self._rest + data
        count = position = 0
        size = len(data)
        while size - position >= 2:
            length, head = data[position + 1], 2
            if length >= 126:
                head = 4 if length == 126 else 10
                if size - position < head:
                    break
                length = int.from_bytes(data[position + 2 : position + head], "big")
            end = position + head + length
            if end > size:
                break
            if data[position] == TEXT:
                count += 1
            else:
                self._control(data[position], data[position + head : end])
            position = end
        self._data, self._complete = data, position
        self._rest = data[position:] if position < size else b""
        return count

    def last_id(self) -> int:
        """The id in the last complete message that has one. Raises `Refused` where none has."""
        at = self._data.rfind(b'"id":', 0, self._complete)
        digits = self._data[at + 5 : at + 12].strip()[:6]
        if at < 0 or not digits.isdigit():
            raise Refused(f"no id in {self._data[-200:]!r}")
        return int(digits)

    def text(self) -> bytes:
        """All that was complete in the last feeding, for those who look for a word in it."""
        return self._data[: self._complete]

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.pings.append(payload)
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            raise Refused(f"closed with {code} {payload[2:].decode(errors='replace')}")
        elif opcode != PONG:
            raise Refused(f"a frame that begins with {opcode:#x}")
