"""The frame decoder against RFC 6455, and against wsproto as an oracle."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import CLIENT, SERVER, Connection
from wsproto.events import CloseConnection, Event, Ping, Pong, TextMessage

from protocol import ERRORS
from tests.websocket.peer import close, frame, text
from trioserver.websocket.frames import (
    MALFORMED_CLOSE,
    Binary,
    Control,
    FrameDecoder,
    Item,
    Violation,
)
from trioserver.websocket.headers import MAX_HEADER, Opcode, encode_frame

MIB = 2**20
PING = Control(Opcode.PING, b"there?")
ANY = settings(max_examples=60, deadline=None)


def decoder(*, masked: bool = True, limit: int = 2 * MIB, binary: bool = False) -> FrameDecoder:
    return FrameDecoder(masked=masked, max_message_bytes=limit, binary=binary)


def decode(data: bytes, *, limit: int = 2 * MIB) -> list[Item]:
    return decoder(limit=limit).receive(data)


def in_pieces(decoder: FrameDecoder, data: bytes, cuts: Iterable[int]) -> list[Item]:
    """What comes out when the data is cut at these places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    return [item for piece in pieces for item in decoder.receive(piece)]


# ------------------------------------------------------------------------------ what is right

controls = st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)).map(
    lambda pair: [(pair[0], pair[1], True)]
)


@st.composite
def messages(draw: st.DrawFn) -> list[tuple[Opcode, bytes, bool]]:
    """A text message in fragments, with control frames in between."""
    size = draw(st.sampled_from([0, 1, 20, 125, 126, 40_000, 70_000]))
    payload = (draw(st.text(min_size=1, max_size=12)) * size).encode()[:size]
    payload = payload.decode(errors="ignore").encode()
    edges = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    frames: list[tuple[Opcode, bytes, bool]] = []
    for index, (start, end) in enumerate(zip([0, *edges], [*edges, len(payload)], strict=True)):
        opcode = Opcode.CONTINUATION if index else Opcode.TEXT
        frames.append((opcode, payload[start:end], index == len(edges)))
        if index < len(edges) and draw(st.booleans()):
            frames += draw(controls)
    return frames


streams = st.lists(st.one_of(messages(), controls), max_size=8).map(
    lambda parts: list(itertools.chain(*parts))
)


def by_wsproto(data: bytes, *, masked: bool) -> list[Item]:
    """What wsproto makes of it, its pieces of messages put together."""
    oracle = Connection(SERVER if masked else CLIENT)
    oracle.receive_data(data)
    items: list[Item] = []
    parts: list[str] = []
    for event in oracle.events():
        if isinstance(event, TextMessage):
            parts.append(event.data)
            if event.message_finished:
                items.append("".join(parts).encode())
                parts.clear()
        else:
            items.append(_other(event))
    return items


def _other(event: Event) -> Item:
    if isinstance(event, CloseConnection):  # which is how it says that a rule was broken
        return Violation({1002: "protocol_error", 1007: "not_utf8"}[event.code])
    assert isinstance(event, Ping | Pong), event
    return Control(Opcode.PING if isinstance(event, Ping) else Opcode.PONG, bytes(event.payload))


@pytest.mark.parametrize("masked", [True, False])
@given(frames=streams, cuts=st.lists(st.integers(0, 2**20), max_size=12))
@ANY
def test_a_stream_of_frames_cut_anywhere_gives_what_wsproto_gives(
    masked: bool, frames: list[tuple[Opcode, bytes, bool]], cuts: list[int]
) -> None:
    data = b"".join(frame(op, body, final=final, masked=masked) for op, body, final in frames)
    assert in_pieces(decoder(masked=masked), data, cuts) == by_wsproto(data, masked=masked)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MIB])
def test_what_is_encoded_is_decoded(size: int) -> None:
    encoded = encode_frame(Opcode.TEXT, b"x" * size)
    assert len(encoded) <= size + MAX_HEADER
    assert decoder(masked=False).receive(encoded) == [b"x" * size]


def test_control_frames_come_out_between_the_fragments_of_a_message() -> None:
    first = frame(Opcode.TEXT, b"one, ", final=False)
    ping = frame(Opcode.PING, PING.payload)
    assert decode(first + ping + frame(Opcode.CONTINUATION, b"two")) == [PING, b"one, two"]


def test_a_character_may_be_cut_by_fragments() -> None:
    euro = "€".encode()
    assert decode(
        frame(Opcode.TEXT, euro[:1], final=False)
        + frame(Opcode.CONTINUATION, euro[1:2], final=False)
        + frame(Opcode.CONTINUATION, euro[2:])
    ) == [euro]


@pytest.mark.parametrize("masked", [True, False])
@given(
    payload=st.binary(max_size=300),
    edges=st.lists(st.integers(0, 300), max_size=3),
    cuts=st.lists(st.integers(0, 2**10), max_size=5),
)
@ANY
def test_binary_messages_come_out_where_they_are_asked_for(
    masked: bool, payload: bytes, edges: list[int], cuts: list[int]
) -> None:
    places = [0, *sorted(edges), len(payload)]
    fragments = [payload[start:end] for start, end in itertools.pairwise(places)]
    data = b"".join(
        frame(
            Opcode.CONTINUATION if index else Opcode.BINARY,
            fragment,
            final=index == len(edges),
            masked=masked,
        )
        for index, fragment in enumerate(fragments)
    )
    data += frame(Opcode.TEXT, b"and text", masked=masked)
    items = in_pieces(decoder(masked=masked, binary=True), data, cuts)
    assert items == [b"".join(fragments), b"and text"]
    assert [type(item) for item in items] == [Binary, bytes]


# ------------------------------------------------------------------------------ what is wrong

FIRST = frame(Opcode.TEXT, b"first", final=False)

VIOLATIONS: dict[str, tuple[bytes, str]] = {
    **{
        f"reserved bit {bit:03b} on opcode {opcode}": (
            frame(opcode, b"x", reserved=bit),
            "protocol_error",
        )
        for bit in (1, 2, 4)
        for opcode in (Opcode.TEXT, Opcode.PING)
    },
    **{
        f"opcode {opcode}": (frame(opcode, b"x"), "protocol_error")
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "unmasked": (frame(Opcode.TEXT, b"x", masked=False), "protocol_error"),
    "unmasked control": (frame(Opcode.PONG, b"x", masked=False), "protocol_error"),
    "fragmented control": (frame(Opcode.PING, b"x", final=False), "protocol_error"),
    "long control": (frame(Opcode.PING, b"x" * 126), "protocol_error"),
    "5 in two bytes": (frame(Opcode.TEXT, b"short", form=2), "protocol_error"),
    "5 in eight bytes": (frame(Opcode.TEXT, b"short", form=8), "protocol_error"),
    "65535 in eight bytes": (frame(Opcode.TEXT, b"x" * 65_535, form=8), "protocol_error"),
    "stray continuation": (frame(Opcode.CONTINUATION, b"x"), "protocol_error"),
    "text in a text": (FIRST + text("another"), "protocol_error"),
    "binary in a text": (FIRST + frame(Opcode.BINARY, b"another"), "protocol_error"),
    "binary": (frame(Opcode.BINARY, b"x"), "binary_unsupported"),
    "empty binary": (frame(Opcode.BINARY), "binary_unsupported"),
    "first fragment of a binary": (frame(Opcode.BINARY, final=False), "binary_unsupported"),
    "not UTF-8": (text(b"\xff"), "not_utf8"),
    "UTF-8 that ends too early": (text("€".encode()[:2]), "not_utf8"),
    "a surrogate": (text(b"\xed\xa0\x80"), "not_utf8"),
    "not UTF-8 in a fragment": (frame(Opcode.TEXT, b"\xff", final=False), "not_utf8"),
    "not UTF-8 over two fragments": (
        frame(Opcode.TEXT, b"\xe2", final=False) + frame(Opcode.CONTINUATION, b"x", final=False),
        "not_utf8",
    ),
    "UTF-8 that ends too early in fragments": (
        FIRST + frame(Opcode.CONTINUATION, b"\xe2\x82"),
        "not_utf8",
    ),
    "too big": (text(b"x" * 70_000), "message_too_big"),
    "too big in fragments": (
        frame(Opcode.TEXT, b"x" * 40_000, final=False) + frame(Opcode.CONTINUATION, b"x" * 40_000),
        "message_too_big",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("step", [1, MIB])
def test_each_violation_is_told_once_and_the_frames_behind_are_found(name: str, step: int) -> None:
    wrong, code = VIOLATIONS[name]
    data = text("before") + wrong + text("dropped") + frame(Opcode.PING, PING.payload) + close()
    tested = decoder(limit=70_000 - 1)
    items = [
        item for start in range(0, len(data), step) for item in tested.receive(data[start:][:step])
    ]
    assert code in ERRORS
    goodbye = Control(Opcode.CLOSE, b"\x03\xe8")
    assert items == [b"before", Violation(code), PING, goodbye]


def test_after_a_violation_a_close_is_found_whatever_else_is_wrong() -> None:
    """A library that does not mask its frames does not mask its Close frame."""
    unmasked = frame(Opcode.TEXT, b"hello", masked=False)
    goodbye = frame(Opcode.CLOSE, b"\x03\xe8", masked=False)
    assert decode(unmasked + unmasked + goodbye) == [
        Violation("protocol_error"),
        Control(Opcode.CLOSE, b"\x03\xe8"),
    ]


@pytest.mark.parametrize("wrong", [b"\xff", b"\xc0", b"\xe2x", b"\xf4\x90", "€".encode() + b"\x80"])
@pytest.mark.parametrize("masked", [True, False])
def test_what_is_not_utf8_is_known_by_the_byte_that_makes_it_so(wrong: bytes, masked: bool) -> None:
    tested = decoder(masked=masked)
    behind = b"y" * 1000
    data = frame(Opcode.TEXT, b"x" * 1000 + wrong + behind, final=False, masked=masked)
    told = len(data) - len(behind) - 1
    for place in range(told):
        assert tested.receive(data[place : place + 1]) == []
    assert tested.receive(data[told : told + 1]) == [Violation("not_utf8")]
    rest = frame(Opcode.CONTINUATION, b"z", masked=masked) + frame(Opcode.PING, PING.payload)
    assert tested.receive(data[told + 1 :] + rest) == [PING]


BAD_CLOSES = {
    "too long": frame(Opcode.CLOSE, b"\x03\xe8" + b"x" * 124),
    "much too long": frame(Opcode.CLOSE, b"\x03\xe8" + b"x" * 70_000),
    "2 in two bytes": frame(Opcode.CLOSE, b"\x03\xe8", form=2),
    "unmasked": frame(Opcode.CLOSE, b"\x03\xe8", masked=False),
}


@pytest.mark.parametrize("name", BAD_CLOSES)
@pytest.mark.parametrize("step", [1, MIB])
def test_a_close_that_breaks_a_rule_is_a_malformed_close(name: str, step: int) -> None:
    wrong = BAD_CLOSES[name]
    data = text("before") + wrong + text("dropped") + frame(Opcode.PING, PING.payload)
    items = in_pieces(decoder(), data, range(0, len(data), step))
    assert items == [b"before", MALFORMED_CLOSE, PING]


def test_no_message_comes_out_behind_a_close() -> None:
    goodbye = Control(Opcode.CLOSE, b"\x03\xe8")
    assert decode(text("one") + FIRST + close() + text("two")) == [b"one", goodbye]


def test_a_length_of_2_to_the_63_loses_all_that_follows() -> None:
    tested = decoder()
    wrong = frame(Opcode.TEXT, length=2**63)
    assert tested.receive(wrong + close()) == [Violation("protocol_error")]
    assert tested.receive(close() * 1000) == []


def test_a_message_that_is_too_big_is_known_by_its_header() -> None:
    tested = decoder(limit=10)
    data = frame(Opcode.TEXT, b"x" * 11)
    assert tested.receive(data[:-11]) == [Violation("message_too_big")]
    assert tested.receive(data[-11:] + close(1009)) == [Control(Opcode.CLOSE, b"\x03\xf1")]


def test_the_limit_may_be_raised_between_two_fragments() -> None:
    tested = decoder(limit=5)
    assert tested.receive(FIRST) == []
    tested.max_message_bytes = 10
    assert tested.receive(frame(Opcode.CONTINUATION, b"5more")) == [b"first5more"]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.CONTINUATION])
@pytest.mark.parametrize("final", [True, False])
def test_a_frame_in_the_middle_of_which_data_is_dropped_does_not_come_out(
    opcode: Opcode, final: bool
) -> None:
    tested = decoder()
    data = FIRST * (opcode is Opcode.CONTINUATION) + frame(opcode, b"\xff" * 9, final=final)
    tested.receive(data[:-3])
    tested.discard_data()
    assert tested.receive(data[-3:] + frame(Opcode.PING, PING.payload)) == [PING]


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_give_items_wherever_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole = decode(data)
    assert in_pieces(decoder(), data, cuts) == whole
    assert len([item for item in whole if isinstance(item, Violation)]) <= 1


odd_frames = st.builds(
    frame,
    st.sampled_from(
        [op for op in range(16) if op not in (Opcode.BINARY, Opcode.CLOSE)] + [0, 1] * 9
    ),
    st.one_of(st.sampled_from([b"", b"\xe2", b"\x82\xac", b"\xff", b"x" * 126]), st.binary()),
    final=st.booleans(),
    reserved=st.sampled_from([0] * 9 + [1]),
    masked=st.sampled_from([True] * 9 + [False]),
    form=st.sampled_from([None] * 9 + [2, 8]),
)


@given(frames=st.lists(odd_frames, max_size=6))
@settings(max_examples=400, deadline=None)
def test_a_rule_is_broken_where_wsproto_says_so(frames: list[bytes]) -> None:
    data = b"".join(frames)
    expected = by_wsproto(data, masked=True)
    items = decode(data)
    first = next((n for n, item in enumerate(items) if isinstance(item, Violation)), len(items))
    assert items[: first + 1] == expected


# ------------------------------------------------------------------------------ what it costs


def work(run: Callable[[], object]) -> int:
    """Lines, calls and returns of Python, and calls into C: the same in each run, unlike time."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def allocated(run: Callable[[], object]) -> int:
    """How much more memory was in use at the highest point than at the beginning, in bytes."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    run()
    return tracemalloc.get_traced_memory()[1] - before


SHAPES: dict[str, Callable[[int], bytes]] = {
    "empty fragments": lambda n: (
        frame(Opcode.TEXT, final=False) + frame(Opcode.CONTINUATION, final=False) * n
    ),
    "empty messages": lambda n: text("") * n,
    "pings": lambda n: frame(Opcode.PING) * n,
    "one large message": lambda n: text(b"x" * n * 10),
    "one fragmented message": lambda n: (
        frame(Opcode.TEXT, final=False) + frame(Opcode.CONTINUATION, b"x" * 10, final=False) * n
    ),
    "a dropped message": lambda n: frame(Opcode.BINARY, b"x" * n * 10),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [1, 7, 2**30])
def test_twice_the_input_is_twice_the_work(shape: str, step: int) -> None:
    def cost(size: int) -> int:
        tested, data = decoder(), SHAPES[shape](size)
        pieces = [data[start : start + step] for start in range(0, len(data), step)]
        return work(lambda: [tested.receive(piece) for piece in pieces])

    assert cost(2000) < 2.2 * cost(1000) + 100


@pytest.mark.parametrize("shape", ["empty fragments", "empty messages", "pings"])
def test_ten_thousand_empty_frames_in_one_read_cost_the_same_each(shape: str) -> None:
    tested, data = decoder(), SHAPES[shape](10_000)
    assert work(lambda: tested.receive(data)) < 10_000 * 60


def test_bytes_that_come_one_by_one_behind_a_mebibyte_do_not_copy_it() -> None:
    tested, data = decoder(), text(b"x" * MIB)
    tested.receive(data[:-1001])
    tracemalloc.start()
    try:
        copied = sum(
            allocated(partial(tested.receive, data[place : place + 1]))
            for place in range(len(data) - 1001, len(data) - 1)
        )
    finally:
        tracemalloc.stop()
    assert copied < 2 * MIB  # the buffer grows once
    assert tested.receive(data[-1:]) == [b"x" * MIB]


def test_a_large_message_is_copied_a_few_times_at_the_most() -> None:
    tested, data = decoder(), text(b"x" * MIB)
    tracemalloc.start()
    try:
        assert allocated(lambda: tested.receive(data)) < 7 * MIB
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_of_a_message_that_is_dropped() -> None:
    tested = decoder(limit=10)
    tested.receive(frame(Opcode.TEXT, length=2**40))
    for _ in range(100):
        tested.receive(b"x" * 65_536)
    assert len(tested._buffer) == 0


# ------------------------------------------------------------------------- too many fragments


def fragments(count: int, size: int) -> bytes:
    """A message in this many frames of this size."""
    first = frame(Opcode.TEXT, b"x" * size, final=False)
    between = frame(Opcode.CONTINUATION, b"x" * size, final=False)
    return first + between * (count - 2) + frame(Opcode.CONTINUATION, b"x" * size)


@pytest.mark.parametrize(("count", "size"), [(64, 0), (60, 1), (1000, 64), (16, 4096)])
def test_a_message_may_come_in_a_few_fragments_or_in_any_number_of_64_bytes(
    count: int, size: int
) -> None:
    assert decoder().receive(fragments(count, size)) == [b"x" * count * size]


@pytest.mark.parametrize("size", [0, 1, 8])
def test_more_fragments_than_a_message_needs_are_too_many(size: int) -> None:
    empty = frame(Opcode.TEXT, final=False) + frame(Opcode.CONTINUATION, final=False) * 10_000
    assert decoder().receive(empty) == [Violation("message_too_big")]
    assert decoder().receive(fragments(5000, size)) == [Violation("message_too_big")]


def test_frames_that_are_no_short_messages_are_counted_also_when_they_are_dropped() -> None:
    it = decoder()
    it.receive(fragments(10, 5) + frame(Opcode.TEXT, b"whole") + frame(Opcode.PING))
    assert it.frames == 11
    it.discard_data()
    it.receive(fragments(20, 0))
    assert it.frames == 31


def test_one_long_frame_in_many_reads_is_no_fragment() -> None:
    it = decoder()
    data = frame(Opcode.TEXT, b"x" * 10_000)
    items = [item for byte in range(len(data)) for item in it.receive(data[byte : byte + 1])]
    assert items == [b"x" * 10_000]
    assert it.frames == 1
    assert not it.has_large


def test_a_large_message_is_said_to_be_one() -> None:
    it = decoder(limit=2**20)
    for large in (frame(Opcode.TEXT, b"x" * 20_000), fragments(20, 1000)):
        assert len(it.receive(large)) == 1
        assert it.has_large
        assert not it.only_messages
    assert it.receive(frame(Opcode.TEXT, b"x" * 16_000)) == [b"x" * 16_000]
    assert it.only_messages
    assert not it.has_large
