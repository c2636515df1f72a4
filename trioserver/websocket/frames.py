"""RFC 6455 frames, sans-I/O: bytes in, whole messages and control frames out.

Linear in the input, however it is cut. Invalid UTF-8 is found as soon as it arrives. The first rule
that is broken gives a `Violation`, whose code is a row of `protocol.errors`. After it data frames
are discarded, and control frames are still returned, unchecked: so the peer's Close is found, and
the closing handshake can be completed. A Close frame that breaks a rule still counts as the peer's
Close, because there will be no other.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from trioserver.websocket.fragments import Fragments
from trioserver.websocket.headers import (
    MAX_CONTROL_PAYLOAD,
    TWO_BYTE_LENGTH,
    WHOLE_CLOSE,
    WHOLE_TEXT,
    Header,
    Opcode,
    read_header,
)
from trioserver.websocket.masking import apply_mask

LARGE: Final = 16 * 1024
"""Bytes of a message that may take long to handle."""

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


MALFORMED_CLOSE: Final = Control(Opcode.CLOSE, b"\x00")
"""Stands for a Close frame that is too long, or not masked as it must be. A payload of one byte is
malformed (section 5.5.1)."""


class Binary(bytes):
    """A whole binary message."""


Item: TypeAlias = bytes | Control | Violation
"""Bytes are a whole text message, known to be UTF-8, or `Binary` if that is accepted."""


class _ProtocolError(Exception):
    def __init__(self, code: str) -> None:
        self.code = code


class FrameDecoder:
    """Cuts a stream of bytes into messages and control frames.

    ``masked``: whether frames must be masked, as a client's are (section 5.3), or must not be.
    ``binary``: whether binary messages are accepted; otherwise they are a violation.
    ``max_message_bytes`` may be changed at any time. It is checked with a frame's header, before
    its payload has been read.

    About the last call of `receive`: ``only_messages`` says that it returned messages only, none of
    them larger than `LARGE`; ``has_large`` that one was larger. ``frames`` counts the frames that
    cost more than a whole small message: fragments, control frames, discarded frames. The caller
    sets it back to 0.
    """

    __slots__ = (
        "_binary", "_buffer", "_discarding", "_final", "_mask", "_masked", "_message", "_missing",
        "frames", "has_large", "max_message_bytes", "only_messages",
    )  # fmt: skip

    def __init__(self, *, masked: bool, max_message_bytes: int, binary: bool = False) -> None:
        self.max_message_bytes = max_message_bytes
        self.only_messages = True
        self.has_large = False
        self.frames = 0
        self._masked = masked
        self._binary = binary
        self._buffer = b""  # a header, or a control frame, that is not complete yet
        self._missing = 0  # bytes still to come of a data frame, or of one that is dropped
        self._final = False  # whether that frame is the last of its message
        self._mask = b""  # its mask, turned to where its next byte is
        self._message: Fragments | None = None  # that is not complete yet
        self._discarding = False

    def receive(self, data: bytes) -> list[Item]:
        """Return what is complete with these bytes, in order. Raises nothing, whatever they are."""
        items: list[Item] = []
        position = 0
        self.only_messages = True
        self.has_large = False
        if self._missing:
            position = self._continue_payload(data, items)
        elif self._buffer:
            data = self._buffer + data
            self._buffer = b""
        size = len(data)
        while position < size:
            if self._message is None and not self._discarding:
                position = self._decode_fast_path(data, position, items)
                if position == size:
                    break
            end = self._decode_frame(data, position, items)
            if end is None:
                self._buffer = data[position:]
                break
            position = end
        return items

    @property
    def missing(self) -> int:
        """Bytes that are missing of the current frame, 0 if that is not known."""
        return self._missing

    @property
    def partial_bytes(self) -> int:
        """The bytes that are held of an incomplete message."""
        return 0 if self._message is None else self._message.size

    def discard_data(self) -> None:
        """From now on return control frames only."""
        self._discarding = True
        self._message = None

    def _decode_fast_path(self, data: bytes, position: int, items: list[Item]) -> int:
        """Decode whole text messages of at most `LARGE` bytes; return where they end.

        Nearly all messages are like that. Everything else is left to `_decode_frame`.
        """
        masked, limit, size = self._masked, self.max_message_bytes, len(data)
        mask_bit, header = (0x80, 6) if masked else (0, 2)
        while position + header <= size and data[position] == WHOLE_TEXT:
            begin = position + header
            length = data[position + 1] - mask_bit
            if length == TWO_BYTE_LENGTH:
                length = int.from_bytes(data[position + 2 : position + 4], "big")
                begin += 2
                if length < TWO_BYTE_LENGTH or length > LARGE:
                    break
            elif not 0 <= length < TWO_BYTE_LENGTH:
                break
            end = begin + length
            if end > size or length > limit:
                break
            payload = data[begin:end]
            if masked:
                payload = apply_mask(payload, data[begin - 4 : begin])
            if not payload.isascii() and not _is_utf8(payload):
                break
            items.append(payload)
            position = end
        return position

    def _decode_frame(self, data: bytes, position: int, items: list[Item]) -> int | None:
        """Decode the frame that starts here, or the part of a data frame that is there.

        Return where that ends, None if more is needed to begin.
        """
        header = read_header(data, position)
        if header is None:
            return None
        self.frames += 1
        opcode = header.opcode
        begin = position + header.size
        end = begin + header.length
        missing = end - len(data) if end > len(data) else 0
        try:
            if not self._discarding:
                self._check(header)
            if opcode in _CONTROLS and header.length <= MAX_CONTROL_PAYLOAD:
                if missing:
                    return None
                self.only_messages = False
                items.append(Control(Opcode(opcode), _payload(data, begin, end, header)))
                if opcode == Opcode.CLOSE:
                    self.discard_data()  # section 5.5.1: no data follows
            elif not self._discarding:
                self._decode_data(header, _payload(data, begin, end, header), missing, items)
        except _ProtocolError as error:
            if header.first == WHOLE_CLOSE:
                self.only_messages = False
                items.append(MALFORMED_CLOSE)
                self.discard_data()
            else:
                self._emit_violation(error, items)
        if missing:
            self._missing = missing
            self._final = header.final
            self._mask = (
                _rotate_mask(data[begin - 4 : begin], len(data) - begin) if header.masked else b""
            )
        return end - missing

    def _decode_data(self, header: Header, payload: bytes, missing: int, items: list[Item]) -> None:
        """Decode a data frame, or the part of it that is there, which is a fragment, too."""
        if self._message is None:
            is_text = header.opcode == Opcode.TEXT
            if header.final and not missing:
                self._emit(_checked_text(payload) if is_text else Binary(payload), items)
                return
            self._message = Fragments(is_text=is_text)
        else:
            self._message.frames += 1
        self._add_piece(payload, header.final and not missing, items)

    def _continue_payload(self, data: bytes, items: list[Item]) -> int:
        """Decode what is there of the rest of a frame; return where that ends."""
        end = min(self._missing, len(data))
        self._missing -= end
        if not self._discarding:
            piece = data[:end]
            if self._mask:
                piece = apply_mask(piece, self._mask)
                self._mask = _rotate_mask(self._mask, end)
            try:
                self._add_piece(piece, self._final and not self._missing, items)
            except _ProtocolError as error:
                self._emit_violation(error, items)
        return end

    def _add_piece(self, piece: bytes, last: bool, items: list[Item]) -> None:
        message = self._message
        assert message is not None
        try:
            message.add(piece, last=last)
        except UnicodeDecodeError:
            raise _ProtocolError("not_utf8") from None
        if last:
            self._emit(message.join() if message.is_text else Binary(message.join()), items)
            self._message = None

    def _emit(self, message: bytes, items: list[Item]) -> None:
        items.append(message)
        if len(message) > LARGE:
            self.has_large = True
            self.only_messages = False

    def _emit_violation(self, error: _ProtocolError, items: list[Item]) -> None:
        self.only_messages = False
        items.append(Violation(error.code))
        self.discard_data()

    def _check(self, header: Header) -> None:
        """Check a frame's header (sections 5.2, 5.4 and 5.5)."""
        opcode = header.opcode
        if (
            header.first & 0x70
            or opcode not in _KNOWN
            or header.masked != self._masked
            or not header.minimal
        ):
            raise _ProtocolError("protocol_error")
        if header.is_control:
            if not header.final or header.length > MAX_CONTROL_PAYLOAD:
                raise _ProtocolError("protocol_error")
        elif (opcode == Opcode.CONTINUATION) == (self._message is None):
            raise _ProtocolError("protocol_error")
        elif opcode == Opcode.BINARY and not self._binary:
            raise _ProtocolError("binary_unsupported")
        elif self._is_too_big(header.length):
            raise _ProtocolError("message_too_big")

    def _is_too_big(self, length: int) -> bool:
        """Whether a frame of this length makes the message too large, or its frames too many."""
        message = self._message
        if message is None:
            return length > self.max_message_bytes
        return message.are_too_many or message.size + length > self.max_message_bytes


def _payload(data: bytes, begin: int, end: int, header: Header) -> bytes:
    """Return the payload, or the part of it that is there, unmasked."""
    payload = data[begin:end]
    return apply_mask(payload, data[begin - 4 : begin]) if header.masked else payload


def _checked_text(payload: bytes) -> bytes:
    if not _is_utf8(payload):
        raise _ProtocolError("not_utf8")
    return payload


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _rotate_mask(mask: bytes, taken: int) -> bytes:
    """Return the mask for what follows after ``taken`` bytes."""
    return mask[taken % 4 :] + mask[: taken % 4]
