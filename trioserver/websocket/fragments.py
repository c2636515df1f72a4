"""A message in pieces: the peer's fragments, or the parts of a long frame that reads returned."""

from __future__ import annotations

import codecs
from io import BytesIO
from typing import Final

_LARGE: Final = 4 * 1024
"""Pieces of at least this many bytes are kept as they are: in a buffer that grows, a message of
1 MiB would be copied six times. Smaller ones cost more to keep than to copy."""

_FULL: Final = 64 * 1024
"""Small pieces are joined to one when they reach this many bytes."""

_FEW: Final = 64
_FRAGMENT_BYTES: Final = 64
"""A message may have `_FEW` frames, and one more for each `_FRAGMENT_BYTES`. Each frame costs as
much CPU time as hundreds of bytes, an empty one too."""

_utf8: Final = codecs.getincrementaldecoder("utf-8")


class Fragments:
    """The pieces of one message so far, ``size`` bytes of them; ``is_text`` if they must be UTF-8.

    ``frames`` is how many frames have begun, for whoever takes them to count.

    Linear in the message, in time and memory, whatever the pieces.
    """

    __slots__ = ("_pieces", "_small", "_text", "frames", "is_text", "size")

    def __init__(self, *, is_text: bool) -> None:
        self.is_text = is_text
        self.size = 0
        self.frames = 1
        self._text = _utf8() if is_text else None
        self._pieces: list[bytes] = []
        self._small: BytesIO | None = None  # small pieces, behind those others

    def add(self, piece: bytes, *, last: bool) -> None:
        """Add the next piece. Raises `UnicodeDecodeError` when the pieces cannot become UTF-8."""
        text = self._text
        # ASCII between two characters needs no look; getstate() has what there is of the next one.
        if text is not None and not (piece.isascii() and not text.getstate()[0]):
            text.decode(piece, last)
        self.size += len(piece)
        if len(piece) >= _LARGE:
            self._close_small()
            self._pieces.append(piece)
        elif piece:
            self._small = self._small or BytesIO()
            self._small.write(piece)
            if self._small.tell() >= _FULL:
                self._close_small()

    @property
    def are_too_many(self) -> bool:
        """Whether there are more frames than a message of this size may have."""
        return self.frames > _FEW + self.size // _FRAGMENT_BYTES

    def join(self) -> bytes:
        """Return the message, or the part that has arrived."""
        self._close_small()
        return b"".join(self._pieces)

    def _close_small(self) -> None:
        if self._small is not None:
            self._pieces.append(self._small.getvalue())
            self._small = None
