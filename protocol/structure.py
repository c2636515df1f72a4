"""What a message's JSON costs to parse, judged before it is parsed: nesting, containers, numbers.

Everything here is a few passes in C over the bytes, so it stays linear and small whatever the text.
There is no loop in Python over characters, brackets or levels.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import Final

from protocol.errors import Refusal

MAX_DEPTH: Final = 64
"""Levels of nesting in a message. Far below the depth at which a parser runs out of stack."""

SHORT: Final = 2 * MAX_DEPTH
"""Bytes of a message that cannot be nested too deeply: what opens has to be closed."""

CONTAINER_BYTES: Final = 16
"""Bytes that an array or object counts as, where a message has so many of them that its own bytes
are fewer. To make one takes as long as to read some hundreds of bytes of text."""

FEW_NUMBERS: Final = 8
BYTES_FOR_A_NUMBER: Final = 4096
"""Numbers with an exponent of three digits, or with a hundred digits, that a text may hold: a few,
and one more for so many bytes. A parser takes 20 to 70 us for one of them, and 0.1 us for others.
They are rare: the largest float as a stand-in for "none", at the most."""

_LONG: Final = 4096
"""Bytes of a message in which brackets are counted with no call of a function."""

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
    """How many bytes a message counts as towards its sender's rate.

    That is its size, or `CONTAINER_BYTES` for each array and object, whichever is more; an opening
    bracket in a string is taken for one. Up to `SHORT` bytes it is the size.
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
    """Whether `check_depth` is to be asked: False is certain, and nearly always the answer."""
    size = len(data)
    return size > SHORT and (size > _LONG or data.count(b"[") + data.count(b"{") > MAX_DEPTH)


def check_depth(data: bytes) -> None:
    """Raise `Refusal` with ``bad_message`` where brackets nest deeper than `MAX_DEPTH`.

    Few opening brackets settle it without a look at the text. What is no JSON may be refused here
    or by the parser.
    """
    if _opening(data) > MAX_DEPTH and _is_deep(_brackets(data)):
        raise Refusal(
            "bad_message", f"Brackets do not match or nest deeper than {MAX_DEPTH} levels."
        )


def check_numbers(data: bytes, code: str) -> None:
    """Raise `Refusal` with ``code`` where too many numbers take long to read."""
    if len(data) < _SMALLEST:
        return
    allowed = FEW_NUMBERS + len(data) // BYTES_FOR_A_NUMBER
    # Strings are only left out where it matters: hexadecimal digits may look like an exponent.
    if _long_numbers(data) > allowed and _long_numbers(_without_strings(data)) > allowed:
        raise Refusal(
            code, "Too many numbers have an exponent of three digits, or a hundred digits."
        )


def _long_numbers(data: bytes) -> int:
    marked = data.translate(_NUMBERS, _SIGNS)
    count = marked.count(_FAR_EXPONENT)
    return count if len(data) < FEW_NUMBERS * _MANY else count + marked.count(b"0" * _MANY)


def _opening(data: bytes) -> int:
    """How many brackets open, strings included, or some number above `MAX_DEPTH`.

    To find a few is ten times as fast in a long text as to count them.
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
