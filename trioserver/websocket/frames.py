"""RFC 6455 frames, sans-I/O: bytes in, whole messages and control frames out.

Linear in the input however it is cut. The first rule that is broken is a `Violation`, whose code
is a row of `protocol.errors`. After it data frames are dropped, and control frames still come out,
judged no more: so the peer's Close is found, and the closing handshake can come to its end.
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
_CONTROLS: Final = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})


@attrs.frozen
class Control:
    """A control frame, whole and unmasked."""

    opcode: Opcode
    payload: bytes


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
    size: int  # of the header itself; the mask is its last four bytes
    length: int  # of the payload
    minimal: bool  # whether the length is written as section 5.2 wants it

    @property
    def final(self) -> bool:
        return self.first & 0x80 != 0

    @property
    def opcode(self) -> int:
        return self.first & 0x0F

    @property
    def is_control(self) -> bool:
        return self.first & 0x08 != 0


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
        self._buffer = bytearray()  # the frame that is not complete yet
        self._header: _Header | None = None  # and its header, once that is complete
        self._needed = 0  # bytes before which it is not worth another look
        self._message: bytearray | None = None  # a fragmented message so far
        self._text = _utf8()
        self._skip = 0  # bytes still to come of a frame that is dropped
        self._dropping = False

    def receive(self, data: bytes) -> list[Item]:
        """What is complete with these bytes, in order. Raises nothing, whatever they are."""
        items: list[Item] = []
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return items
            data = bytes(self._buffer)
            self._buffer.clear()
        position = skipped
        while position < len(data):
            try:
                end = self._take_frame(data, position, items)
            except _Violated as violated:
                items.append(Violation(violated.code))
                self.drop_data()
                end = self._pass_over(data, position)
            if end is None:
                break
            position = end
        self._buffer += data[position:]
        return items

    def drop_data(self) -> None:
        """From now on let only control frames through."""
        self._dropping = True
        self._message = None
        self._needed = 0

    def _take_frame(self, data: bytes, position: int, items: list[Item]) -> int | None:
        """Take the frame that starts here; where it ends, None where it is not complete."""
        header = self._header
        if header is None:
            header = self._header = _read_header(data, position)
            if header is None:
                self._needed = 0
                return None
            if not self._dropping:
                self._check(header)
        if self._dropping and (
            header.opcode not in _CONTROLS or header.length > MAX_CONTROL_PAYLOAD
        ):
            return self._pass_over(data, position)
        begin = position + header.size
        end = begin + header.length
        if len(data) < end:
            self._needed = end - position
            return None
        payload = data[begin:end]
        if header.masked:
            payload = apply_mask(payload, data[begin - 4 : begin])
        if header.is_control:
            items.append(Control(Opcode(header.opcode), payload))
            if header.opcode == Opcode.CLOSE:
                self.drop_data()  # section 5.5.1: no data follows
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
        if (
            header.first & 0x70
            or header.opcode not in _KNOWN
            or header.masked != self._masked
            or not header.minimal
        ):
            raise _Violated("protocol_error")
        if header.is_control:
            if not header.final or header.length > MAX_CONTROL_PAYLOAD:
                raise _Violated("protocol_error")
        elif (header.opcode == Opcode.CONTINUATION) == (self._message is None):
            raise _Violated("protocol_error")
        elif header.opcode == Opcode.BINARY:
            raise _Violated("binary_unsupported")
        elif header.length + len(self._message or b"") > self.max_message_bytes:
            raise _Violated("message_too_big")

    def _pass_over(self, data: bytes, position: int) -> int:
        """Leave out the frame that starts here, though it may not be complete."""
        header = self._header
        assert header is not None
        self._header = None
        end = position + header.size + header.length
        self._skip = max(0, end - len(data))
        return min(end, len(data))


def _read_header(data: bytes, position: int) -> _Header | None:
    """The header that starts here, None where it is not complete; section 5.2."""
    available = len(data) - position
    if available < 2:
        return None
    second = data[position + 1]
    masked = second & 0x80 != 0
    length = second & 0x7F
    size = 6 if masked else 2
    minimal = True
    if length >= _TWO_BYTE_LENGTH:
        extended, smallest, beyond = (
            (2, _TWO_BYTE_LENGTH, 2**16) if length == _TWO_BYTE_LENGTH else (8, 2**16, 2**63)
        )
        size += extended
        length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
        minimal = smallest <= length < beyond
    if available < size:
        return None
    return _Header(data[position], masked, size, length, minimal)


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
