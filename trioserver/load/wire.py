"""The client's side of RFC 6455, optimized for many short messages.

`FrameReader` cuts out short text messages in one frame, which servers send most, at a quarter of
the cost of the `FrameDecoder` of `trioserver.websocket.frames`. That decodes everything else. The
UTF-8 of a message is checked by the code that decodes it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import Final

from protocol import SUBPROTOCOL
from trioserver.client.url import WebSocketURL
from trioserver.websocket.frames import Control, FrameDecoder, Item
from trioserver.websocket.headers import (
    EIGHT_BYTE_LENGTH,
    TWO_BYTE_LENGTH,
    WHOLE_TEXT,
    Opcode,
    encode_frame,
)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_HEAD_BYTES: Final = 16 * 1024

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WHOLE: Final = 0x80
_CONTROL: Final = 0x08
_LENGTH_BYTES: Final = {TWO_BYTE_LENGTH: 2, EIGHT_BYTE_LENGTH: 8}
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})")
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*(\d{1,6})[ \t]*\r\n", re.IGNORECASE)
_ACCEPT: Final = re.compile(rb"\r\nsec-websocket-accept:[ \t]*(\S+)[ \t]*\r\n", re.IGNORECASE)


def encode_masked(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """Encode a frame as a client sends it, with a random mask (section 5.3)."""
    return encode_frame(opcode, payload, os.urandom(4))


class OpeningHandshake:
    """An opening handshake (section 4.1): ``request`` is to be sent, the response is parsed."""

    def __init__(self, address: WebSocketURL) -> None:
        key = base64.b64encode(os.urandom(16))
        self._accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self._answer = b""
        self.request = (
            f"GET {address.target} HTTP/1.1\r\n"
            f"Host: {address.authority}\r\n"
            "Connection: Upgrade\r\n"
            "Upgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\n\r\n"
        ).encode()

    def receive(self, data: bytes) -> bytes | None:
        """Bytes after the response's head; None if it is incomplete. Raises `UpgradeError`."""
        head, end, rest = (self._answer + data).partition(b"\r\n\r\n")
        self._answer = head
        if not end:
            if len(head) > MAX_HEAD_BYTES:
                raise UpgradeError(None, None)
            return None
        status = _STATUS.match(head)
        if status is None or int(status[1]) != 101:
            after = _RETRY_AFTER.search(head + b"\r\n")
            seconds = None if after is None else float(after[1])
            raise UpgradeError(None if status is None else int(status[1]), seconds)
        accept = _ACCEPT.search(head + b"\r\n")
        if accept is None or accept[1] != self._accept:
            raise UpgradeError(None, None)
        return rest


class UpgradeError(Exception):
    """The response is not 101; ``status`` is None if it is not that of a WebSocket server."""

    def __init__(self, status: int | None, retry_after: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after


class FrameReader:
    """Decodes messages and control frames, as `FrameDecoder` does."""

    __slots__ = ("_decoder", "_handed_over", "_rest")

    def __init__(self) -> None:
        self._decoder = FrameDecoder(masked=False, max_message_bytes=MAX_MESSAGE_BYTES)
        self._rest = b""
        self._handed_over = False  # whether the decoder reads everything from now on

    def receive(self, data: bytes) -> list[Item]:
        """The items that are complete with these bytes, in order. Raises nothing."""
        if self._handed_over:
            return self._decoder.receive(data)
        if self._rest:
            data = self._rest + data
        items: list[Item] = []
        position = 0
        size = len(data)
        while size - position >= 2:
            length = data[position + 1]
            begin = position + 2
            if length >= TWO_BYTE_LENGTH:
                length_bytes = _LENGTH_BYTES.get(length)
                if length_bytes != 2:  # large, or masked
                    return items + self._hand_over(data[position:])
                begin += 2
                if begin > size:
                    break
                length = int.from_bytes(data[begin - 2 : begin], "big")
                if length < TWO_BYTE_LENGTH:
                    return items + self._hand_over(data[position:])
            end = begin + length
            first = data[position]
            if first == WHOLE_TEXT:
                if end > size:
                    break
                items.append(data[begin:end])
            elif first & _WHOLE and first & _CONTROL:
                if end > size:
                    break
                items += self._decoder.receive(data[position:end])
            else:
                return items + self._hand_over(data[position:])
            position = end
        self._rest = data[position:] if position < size else b""
        return items

    def _hand_over(self, data: bytes) -> list[Item]:
        self._handed_over = True
        self._rest = b""
        return self._decoder.receive(data)


def parse_close(control: Control) -> tuple[int, str]:
    """The code and reason of a Close frame; 1005 if it has none (section 7.4.1)."""
    if len(control.payload) < 2:
        return 1005, ""
    return int.from_bytes(control.payload[:2], "big"), control.payload[2:].decode(errors="replace")
