"""RFC 6455 frames, sans-I/O: bytes in, whole messages and control frames out.

Linear in the input however it is cut. What breaks a rule is a `Violation`, whose code is a row of
`protocol.errors`; after it, data frames are dropped, and control frames still come out where
frame boundaries are known, so that the closing handshake can come to its end.
"""

from __future__ import annotations

import codecs
from enum import IntEnum
from typing import Final, TypeAlias

import attrs

MAX_CONTROL_PAYLOAD: Final = 125
"""RFC 6455, section 5.5."""

MAX_HEADER: Final = 14
"""Bytes of the longest header there is; section 5.2."""

_TWO_BYTE_LENGTH: Final = 126
_EIGHT_BYTE_LENGTH: Final = 127

_utf8: Final = codecs.getincrementaldecoder("utf-8")


class Opcode(IntEnum):
    """RFC 6455, section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_KNOWN: Final = frozenset(Opcode)


@attrs.frozen
class Control:
    """A control frame: what it says, and its bytes as they came."""

    opcode: Opcode
    payload: bytes
    raw: bytes


@attrs.frozen
class Violation:
    """The peer broke a rule; ``code`` is a row of `protocol.errors`."""

    code: str


Item: TypeAlias = bytes | Control | Violation
"""Bytes are a whole text message, known to be UTF-8."""


@attrs.frozen
class _Header:
    first: int
    masked: bool
    start: int  # of the payload
    length: int

    @property
    def final(self) -> bool:
        return self.first & 0x80 != 0

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


class _Violated(Exception):
    def __init__(self, code: str) -> None:
        self.code = code


class FrameDecoder:
    """Cuts a stream of bytes into text messages and control frames.

    ``masked``: whether frames must be masked, as a client's are (section 5.3), or must not be.
    ``max_message_bytes`` may be changed at any time; it is judged by a frame's header, before its
    payload has been read.
    """

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._masked = masked
        self._buffer = bytearray()
        self._header: _Header | None = None  # of the frame that is not complete yet
        self._message: bytearray | None = None  # a fragmented message so far
        self._text = _utf8()
        self._skip = 0  # bytes still to come of a frame that was too big
        self._dropping = False
        self.lost = False  # frame boundaries are not known any more

    def receive(self, data: bytes) -> list[Item]:
        """What is complete with these bytes, in order."""
        items: list[Item] = []
        if self.lost:
            return items
        buffer = self._buffer
        buffer += data
        position = 0
        while position < len(buffer):
            if self._skip:
                skipped = min(self._skip, len(buffer) - position)
                self._skip -= skipped
                position += skipped
                continue
            try:
                end = self._take_frame(position, items)
            except _Violated as violated:
                items.append(Violation(violated.code))
                self.drop_data()
                if violated.code == "protocol_error":
                    self.lost = True
                    buffer.clear()
                    return items
                end = self._pass_over(position)
            if end is None:
                break
            position = end
        del buffer[:position]
        return items

    def drop_data(self) -> None:
        """From now on let only control frames through."""
        self._dropping = True
        self._message = None

    def _take_frame(self, position: int, items: list[Item]) -> int | None:
        """Take the frame that starts here; where it ends, None where it is not complete."""
        header = self._header
        if header is None:
            header = _read_header(self._buffer, position)
            if header is None:
                return None
            self._header = header
            self._check(header)
            if self._dropping and header.opcode < Opcode.CLOSE:
                return self._pass_over(position)
        begin = position + header.start
        end = begin + header.length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[begin:end])
        if self._masked:
            payload = apply_mask(payload, bytes(self._buffer[begin - 4 : begin]))
        if header.opcode >= Opcode.CLOSE:
            raw = bytes(self._buffer[position:end])
            items.append(Control(Opcode(header.opcode), payload, raw))
        else:
            self._take_data(header, payload, items)
        self._header = None
        return end

    def _take_data(self, header: _Header, payload: bytes, items: list[Item]) -> None:
        if self._message is None:
            if header.final:
                items.append(_checked_text(payload))
                return
            self._message = bytearray()
            self._text.reset()
        try:
            self._text.decode(payload, header.final)
        except UnicodeDecodeError:
            raise _Violated("not_utf8") from None
        self._message += payload
        if header.final:
            items.append(bytes(self._message))
            self._message = None

    def _check(self, header: _Header) -> None:
        """Judge a frame by its header alone (sections 5.2, 5.4 and 5.5)."""
        if header.first & 0x70 or header.opcode not in _KNOWN or header.masked != self._masked:
            raise _Violated("protocol_error")
        if header.opcode >= Opcode.CLOSE:
            if not header.final or header.length > MAX_CONTROL_PAYLOAD:
                raise _Violated("protocol_error")
            return
        if self._dropping:
            return
        if (header.opcode == Opcode.CONTINUATION) == (self._message is None):
            raise _Violated("protocol_error")
        if header.opcode == Opcode.BINARY:
            raise _Violated("binary_unsupported")
        if header.length + len(self._message or b"") > self.max_message_bytes:
            raise _Violated("message_too_big")

    def _pass_over(self, position: int) -> int:
        """Leave out the frame that starts here, though it may not be complete."""
        header = self._header
        assert header is not None
        self._header = None
        end = position + header.start + header.length
        self._skip = max(0, end - len(self._buffer))
        return min(end, len(self._buffer))


def _read_header(buffer: bytearray, position: int) -> _Header | None:
    """The header that starts here, None where it is not complete; section 5.2."""
    available = len(buffer) - position
    if available < 2:
        return None
    second = buffer[position + 1]
    length = second & 0x7F
    size = 2 + (4 if second & 0x80 else 0)
    if length == _TWO_BYTE_LENGTH:
        size += 2
    elif length == _EIGHT_BYTE_LENGTH:
        size += 8
    if available < size:
        return None
    if length == _TWO_BYTE_LENGTH:
        length = int.from_bytes(buffer[position + 2 : position + 4], "big")
        minimal = length >= _TWO_BYTE_LENGTH
    elif length == _EIGHT_BYTE_LENGTH:
        length = int.from_bytes(buffer[position + 2 : position + 10], "big")
        minimal = 2**16 <= length < 2**63
    else:
        minimal = True
    if not minimal:
        raise _Violated("protocol_error")
    return _Header(buffer[position], bool(second & 0x80), size, length)


def _checked_text(payload: bytes) -> bytes:
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise _Violated("not_utf8") from None
    return payload


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """Mask or unmask (section 5.3), as one big integer: no loop in Python."""
    size = len(payload)
    repeated = mask * (size // 4) + mask[: size % 4]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")
    return masked.to_bytes(size, "little")


def encode_frame(opcode: Opcode, payload: bytes) -> bytes:
    """An unfragmented, unmasked frame, as a server sends it."""
    size = len(payload)
    if size < _TWO_BYTE_LENGTH:
        return bytes((0x80 | opcode, size)) + payload
    if size < 2**16:
        return bytes((0x80 | opcode, _TWO_BYTE_LENGTH)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, _EIGHT_BYTE_LENGTH)) + size.to_bytes(8, "big") + payload
