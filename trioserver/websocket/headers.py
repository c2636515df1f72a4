"""The header of a frame, RFC 6455 section 5.2: read, and written."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from trioserver.websocket.masking import apply_mask

MAX_CONTROL_PAYLOAD: Final = 125
"""RFC 6455, section 5.5."""

MAX_HEADER: Final = 14
"""Bytes of the longest header there is; section 5.2."""

TWO_BYTE_LENGTH: Final = 126
EIGHT_BYTE_LENGTH: Final = 127

WHOLE_TEXT: Final = 0x81
WHOLE_CLOSE: Final = 0x88
"""The first byte of a frame that is final and has no reserved bits."""


class Opcode(IntEnum):
    """What a frame is."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_SHORT_TEXT: Final = tuple(bytes((WHOLE_TEXT, size)) for size in range(TWO_BYTE_LENGTH))
"""Headers, by the length of the payload."""


@attrs.frozen
class Header:
    """The header of a frame as received; `frames` checks whether it is allowed."""

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


def read_header(data: bytes, position: int) -> Header | None:
    """The header that starts here, None where it is not complete."""
    available = len(data) - position
    if available < 2:
        return None
    second = data[position + 1]
    masked = second & 0x80 != 0
    length = second & 0x7F
    size = 6 if masked else 2
    minimal = True
    if length >= TWO_BYTE_LENGTH:
        extended, smallest, beyond = (
            (2, TWO_BYTE_LENGTH, 2**16) if length == TWO_BYTE_LENGTH else (8, 2**16, 2**63)
        )
        size += extended
        length = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
        minimal = smallest <= length < beyond
    if available < size:
        return None
    return Header(data[position], masked, size, length, minimal)


def encode_text(payload: bytes) -> bytes:
    """An unfragmented, unmasked text frame: what nearly all is that a server sends."""
    size = len(payload)
    if size < TWO_BYTE_LENGTH:
        return _SHORT_TEXT[size] + payload
    return encode_frame(Opcode.TEXT, payload)


def payload_within(frame_bytes: int) -> int:
    """The size of the largest payload of a server's frame of at most ``frame_bytes``."""
    return max(
        min(frame_bytes - 2, TWO_BYTE_LENGTH - 1),
        min(frame_bytes - 4, 2**16 - 1),
        frame_bytes - 10,
        0,
    )


def encode_frame(opcode: Opcode, payload: bytes, mask: bytes = b"") -> bytes:
    """An unfragmented frame: a client's with a ``mask`` of four bytes, else a server's."""
    size, mask_bit = len(payload), 0x80 if mask else 0
    if size < TWO_BYTE_LENGTH:
        head = bytes((0x80 | opcode, mask_bit | size))
    elif size < 2**16:
        head = bytes((0x80 | opcode, mask_bit | TWO_BYTE_LENGTH)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, mask_bit | EIGHT_BYTE_LENGTH)) + size.to_bytes(8, "big")
    return head + mask + apply_mask(payload, mask) if mask else head + payload
