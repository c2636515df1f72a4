"""Estimates what a message costs to parse, before it is parsed: nesting, containers, numbers.

Everything here consists of a few passes over the bytes in C, so its cost is linear and small for
any input. There is no Python loop over characters, brackets or levels.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

from protocol.refusals import Refusal

MAX_DEPTH: Final = 64
"""Maximum nesting of a message, far below the depth at which a parser runs out of stack."""

SHORT: Final = 2 * MAX_DEPTH
"""A message up to this size cannot be nested too deeply, because each bracket must be closed."""

CONTAINER_BYTES: Final = 16
"""The minimum size that is charged for an array or object. Creating one takes as long as reading
some hundreds of bytes of text."""

FEW_NUMBERS: Final = 8
BYTES_FOR_A_NUMBER: Final = 4096
"""Numbers with a three-digit exponent, or with a hundred digits, that a text may contain:
`FEW_NUMBERS`, and one more for each `BYTES_FOR_A_NUMBER` of its size. A parser takes 20 to 70 us
for one of them, and 0.1 us for other numbers. They are rare in practice: at most the largest float
as a marker for "none"."""

_LONG: Final = 4096
"""In a message up to this size, brackets are counted inline, without a function call."""

_OPENING: Final = b"[{"
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'[{]}"')
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_ONLY_QUOTES: Final = bytes(byte if byte == ord('"') else ord("[") for byte in range(256))
_QUOTES_AS_BITS: Final = bytes.maketrans(b'[]"', b"001")
_BRACKETS_AS_BITS: Final = bytes.maketrans(b"[]", b"10")
_OUTSIDE_AS_ONES: Final = bytes.maketrans(b"01", b"\xff\x00")

_LANE: Final = 8  # brackets that are looked at as one byte


def _of_lane(lane: int) -> tuple[int, int]:
    """By how much the depth changes over these brackets, and how far above their start it gets."""
    depth = peak = 0
    for bit in reversed(range(_LANE)):
        depth += 1 if lane >> bit & 1 else -1
        peak = max(peak, depth)
    return depth, peak


_CHANGES: Final = bytes(_of_lane(lane)[0] % 256 for lane in range(256))
_PEAKS: Final = bytes(_of_lane(lane)[1] for lane in range(256))
_ALLOWED: Final = bytes(range(MAX_DEPTH + 1))

# A digit or a point is "0", and signs are left out: what is looked for is then a fixed text.
_NUMBERS: Final = bytes.maketrans(b"0123456789.E", b"00000000000e")
_SIGNS: Final = b"+-"
_FAR_EXPONENT: Final = b"0e000"
_MANY: Final = 100  # digits
_SMALLEST: Final = FEW_NUMBERS * len(b"1e308,")


def weight(data: bytes) -> int:
    """The number of bytes that is charged to the sender's rate limit for a message.

    That is its size, or `CONTAINER_BYTES` for each array and object, whichever is more. An opening
    bracket in a string counts as a container. Up to `SHORT` bytes it is the size.
    """
    size = len(data)
    if size <= SHORT:
        return size
    if size > _LONG:
        if _opening(data) <= MAX_DEPTH:
            return size
        containers = size - len(data.translate(None, _OPENING))
    else:
        containers = data.count(b"[") + data.count(b"{")
    return max(size, CONTAINER_BYTES * containers)


def may_be_deep(data: bytes) -> bool:
    """Whether `check_depth` must be called. False is certain, and the usual result."""
    size = len(data)
    return size > SHORT and (size > _LONG or data.count(b"[") + data.count(b"{") > MAX_DEPTH)


def check_depth(data: bytes) -> None:
    """Raise `Refusal` with ``bad_message`` if brackets are nested deeper than `MAX_DEPTH`.

    A text with few opening brackets is accepted without a closer look. Invalid JSON may be rejected
    here or by the parser.
    """
    if _opening(data) > MAX_DEPTH and _is_deep(_brackets(data)):
        raise Refusal(
            "bad_message", f"Brackets do not match or are nested deeper than {MAX_DEPTH} levels."
        )


def check_numbers(data: bytes, code: str) -> None:
    """Raise `Refusal` with ``code`` if too many numbers are slow to parse."""
    if len(data) < _SMALLEST:
        return
    allowed = FEW_NUMBERS + len(data) // BYTES_FOR_A_NUMBER
    # Strings are removed only if needed: hexadecimal digits in them may look like an exponent.
    if _long_numbers(data) > allowed and _long_numbers(_without_strings(data)) > allowed:
        raise Refusal(code, "Too many numbers have a three-digit exponent or a hundred digits.")


def _long_numbers(data: bytes) -> int:
    marked = data.translate(_NUMBERS, _SIGNS)
    count = marked.count(_FAR_EXPONENT)
    return count if len(data) < FEW_NUMBERS * _MANY else count + marked.count(b"0" * _MANY)


def _opening(data: bytes) -> int:
    """The number of opening brackets, also in strings, or any number above `MAX_DEPTH`.

    In a long text, finding the first few is ten times as fast as counting all.
    """
    count = 0
    for bracket in (b"[", b"{"):
        at = data.find(bracket)
        while at >= 0 and count <= MAX_DEPTH:
            count += 1
            at = data.find(bracket, at + 1)
    return count


def _without_escapes(data: bytes) -> bytes:
    return data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data


def _brackets(data: bytes) -> bytes:
    """The brackets outside of strings, as ``[`` and ``]``."""
    # Two quotes side by side change nothing for what is around them: this takes out all strings
    # without brackets, and whatever is left keeps its side of the quotes.
    marks = _without_escapes(data).translate(_ONE_KIND, _NO_MARKS).replace(b'""', b"")
    return _masked(marks, marks) if b'"' in marks else marks


def _without_strings(data: bytes) -> bytes:
    text = _without_escapes(data)
    return _masked(text, text.translate(_ONLY_QUOTES)) if b'"' in text else text


def _masked(text: bytes, marks: bytes) -> bytes:
    """``text`` without its strings and quotes; ``marks`` are brackets in place of all but quotes.

    A bit for each byte says whether it is a quote; the parity of all bits before it, whether a
    string is open there. To spread a bit over a million takes twenty shifts.
    """
    size = len(marks)
    if not size:
        return b""
    is_open, shift = int(marks.translate(_QUOTES_AS_BITS), 2), 1
    while shift < size:
        is_open ^= is_open >> shift
        shift *= 2
    mask = bin(is_open)[2:].zfill(size).encode().translate(_OUTSIDE_AS_ONES)
    outside = int.from_bytes(text, "big") & int.from_bytes(mask, "big")
    return outside.to_bytes(size, "big").translate(None, b'\0"')


def _is_deep(brackets: bytes) -> bool:
    """Whether they nest deeper than `MAX_DEPTH`, or close what was never opened."""
    if len(brackets) <= MAX_DEPTH:
        return False
    # A lane that is filled up with closing brackets goes no higher.
    bits = brackets.translate(_BRACKETS_AS_BITS) + b"0" * (-len(brackets) % _LANE)
    lanes = int(bits, 2).to_bytes(len(bits) // _LANE, "big")
    changes = array("b", lanes[:-1].translate(_CHANGES))
    try:
        starts = bytes(accumulate(changes, initial=0))
    except ValueError:  # below zero, or far too deep
        return True
    if starts.translate(None, _ALLOWED):
        return True
    # Neither is above 64, so that no sum runs over into its neighbour.
    highest = int.from_bytes(starts, "big") + int.from_bytes(lanes.translate(_PEAKS), "big")
    return bool(highest.to_bytes(len(lanes), "big").translate(None, _ALLOWED))
