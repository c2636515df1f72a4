"""Messages in pieces: the same whole whatever the cuts, and known bad as soon as they are."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.websocket.fragments import Fragments

SIZES = st.sampled_from([0, 1, 7, 4095, 4096, 4097, 65_535, 65_536, 70_000])


def fragments_of(pieces: list[bytes], *, is_text: bool = False) -> Fragments:
    fragments = Fragments(is_text=is_text)
    for number, piece in enumerate(pieces, start=1):
        fragments.add(piece, last=number == len(pieces))
    return fragments


@given(st.lists(SIZES, min_size=1, max_size=8), st.binary(min_size=1, max_size=5))
def test_pieces_of_any_size_are_joined_in_order(sizes: list[int], pattern: bytes) -> None:
    whole = (pattern * (sum(sizes) // len(pattern) + 1))[: sum(sizes)]
    pieces, begin = [], 0
    for size in sizes:
        pieces.append(whole[begin : begin + size])
        begin += size
    fragments = fragments_of(pieces)
    assert fragments.size == len(whole)
    assert fragments.join() == whole


@given(st.text(min_size=1, max_size=40), st.lists(st.integers(0, 160), max_size=6))
def test_text_may_be_cut_in_the_middle_of_a_character(text: str, cuts: list[int]) -> None:
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert fragments_of(pieces, is_text=True).join() == data


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\xff", b"more"],
        [b"good", b"\xc3", b"("],  # plain ASCII behind half of a character
        [b"\xe2\x82", b""],
        [b"\xed\xa0\x80", b"half of a surrogate pair"],
    ],
)
def test_what_is_no_utf_8_is_refused(pieces: list[bytes]) -> None:
    with pytest.raises(UnicodeDecodeError):
        fragments_of(pieces, is_text=True)
    assert fragments_of(pieces).join() == b"".join(pieces)


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 65_536])
def test_pieces_take_little_more_than_their_bytes(size: int) -> None:
    total = 2**20
    tracemalloc.start()
    fragments = Fragments(is_text=False)
    for _ in range(total // size):
        fragments.add(bytes(size), last=False)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fragments.size <= total
    assert kept < 1.3 * total
