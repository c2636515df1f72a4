"""Masks what looks like a token in a path, and truncates the path.

No route reads a token from its path, but clients put it there. A segment that may be a token keeps
its first four characters, which show what kind it is. Segments of up to 20 characters, words and
numbers joined by ``- _ .``, UUIDs, ULIDs and ObjectIds are not masked. If one segment is masked,
the others are masked as well unless they are plain words or numbers: they may be parts of the same
token, because standard base64 contains slashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

MAX_CHARACTERS: Final = 256
"""Maximum characters of a path, because clients choose its length."""

MASK: Final = "***"

_KEPT: Final = 4
_SHORT: Final = 20
_MAX_PIECES: Final = 32
_LONGEST_NAME: Final = 64
_LONGEST_WORD: Final = 16
_LONGEST_NUMBER: Final = 20
_LONGEST_SUFFIX: Final = 8

_SEPARATORS: Final = re.compile(r"([/?&;=])")
_JOINTS: Final = re.compile(r"[-_. ]")
_ID: Final = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # UUID
    r"|[0-7][0-9A-HJKMNP-TV-Z]{25}"  # ULID
    r"|[0-9a-f]{24}"  # ObjectId of MongoDB
)


def masked_path(path: str) -> str:
    """Return the path as it is shown in the log, the audit and the administration."""
    if len(path) <= _SHORT and "=" not in path:
        return path
    # Every second piece is a separator. No path of a route has more pieces than this.
    pieces = _SEPARATORS.split(path[: 2 * MAX_CHARACTERS], _MAX_PIECES)
    if len(pieces) > 2 * _MAX_PIECES:
        pieces[-1] = MASK
    has_token = any(map(_may_be_token, pieces)) or _may_be_split_token(pieces[::2])
    shown = "".join(_shown(pieces, has_token))
    return shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…"


def masked_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return path parameters with each value masked as a path."""
    return {name: masked_path(value) for name, value in parameters.items()}


def _shown(pieces: list[str], has_token: bool) -> Iterator[str]:
    before = ""
    for piece in pieces:
        is_value = before == "=" and piece != ""
        if is_value or _may_be_token(piece) or (has_token and not _is_plain(piece)):
            yield (piece[:_KEPT] if len(piece) > _SHORT else "") + MASK
        else:
            yield piece
        before = piece


def _may_be_token(piece: str) -> bool:
    return len(piece) > _SHORT and not _is_name(piece)


def _may_be_split_token(pieces: list[str]) -> bool:
    """Whether consecutive pieces that are not plain words are together as long as a token."""
    length = 0
    for piece in pieces:
        if not _is_plain(piece):
            length += len(piece)
            if length > _SHORT:
                return True
        elif len(piece) > _KEPT:
            length = 0
    return False


def _is_plain(piece: str) -> bool:
    """Whether a piece is a name in lower or title case. Random text mixes the case."""
    if len(piece) <= 1 or _ID.fullmatch(piece) is not None:
        return True
    words = _JOINTS.split(piece)
    return _is_name(piece) and all(word == word.lower() or word.istitle() for word in words)


def _is_name(piece: str) -> bool:
    if len(piece) > _LONGEST_NAME:
        return False
    return all(map(_is_word, _JOINTS.split(piece))) or _ID.fullmatch(piece) is not None


def _is_word(text: str) -> bool:
    """Whether a text is letters followed by digits, of which either may be missing."""
    letters = text.rstrip("0123456789")
    digits = len(text) - len(letters)
    if not letters:
        return digits <= _LONGEST_NUMBER
    return letters.isalpha() and len(letters) <= _LONGEST_WORD and digits <= _LONGEST_SUFFIX
