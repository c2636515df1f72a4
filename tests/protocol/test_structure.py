"""What a message costs to judge is small and linear, whatever it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from time import thread_time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import Refusal, codec
from protocol.messages import Message
from protocol.structure import CONTAINER_BYTES, FEW_NUMBERS, check_depth, check_numbers, weight

MIB = 1024 * 1024

AWKWARD = {
    "towers": b"[" + (b"[" * 60 + b"]" * 60 + b",") * 8600 + b"1]",
    "towers of objects": b"[" + (b'{"a":' * 50 + b"1" + b"}" * 50 + b",") * 3400 + b"1]",
    "empty arrays": b"[" + b"[]," * (MIB // 3) + b"1]",
    "empty strings behind arrays": b"[" + b"[]," * 70 + b'"",' * (MIB // 3) + b"1]",
    "brackets in strings": b"[" + b'"[",' * (MIB // 4) + b"1]",
    "escaped quotes behind arrays": b"[" + b"[]," * 70 + b'"' + rb"\"" * (MIB // 2) + b'"]',
    "hexadecimal digits": b'"' + b"1e308a" * (MIB // 6) + b'"',
    "large exponents": b"[" + b"1.1e300," * (MIB // 8) + b"1]",
    "many digits": b"[" + (b"1" * 4000 + b",") * 260 + b"1]",
}


def cost(act: Callable[[], object]) -> float:
    """Seconds of CPU time, the least of three, so that other processes matter little."""

    def once() -> float:
        begun = thread_time()
        with suppress(Refusal):
            act()
        return thread_time() - begun

    return min(once() for _ in range(3))


@pytest.mark.parametrize("data", AWKWARD.values(), ids=AWKWARD.keys())
def test_a_message_is_judged_in_about_the_time_that_its_bytes_take_to_be_added_up(
    data: bytes,
) -> None:
    message = b'{"type":"x","data":' + data + b"}"
    yardstick = 10 * cost(lambda: sum(message))
    assert cost(lambda: weight(message)) < yardstick
    assert cost(lambda: check_depth(message)) < yardstick
    assert cost(lambda: check_numbers(message, "bad_message")) < yardstick
    assert cost(lambda: codec.decode_envelope(message)) < yardstick


# ------------------------------------------------------------------------------------ weight

text = st.text(alphabet='ab"\\', max_size=3)
small = st.recursive(
    st.integers() | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@settings(max_examples=50)
@given(small, st.integers(0, 2000))
def test_a_message_counts_as_its_bytes_or_by_its_containers(value: Any, more: int) -> None:
    def containers(value: Any) -> int:
        if isinstance(value, dict):
            value = [*value.values()]
        return 1 + sum(map(containers, value)) if isinstance(value, list) else 0

    data = json.dumps([value, [[]] * more]).encode()
    count = containers([value, [[]] * more])
    short = len(data) <= 128 or (len(data) > 4096 and count <= 64)
    assert weight(data) == (len(data) if short else max(len(data), CONTAINER_BYTES * count))


def test_what_people_send_counts_as_its_bytes() -> None:
    rows = [{"id": number, "name": f"row {number}", "at": [51.5, -0.1]} for number in range(1000)]
    for value in ("x" * MIB, list(range(10_000)), rows):
        data = json.dumps(value).encode()
        assert weight(data) == len(data)


# ----------------------------------------------------------------------------------- numbers


def code_of(data: bytes) -> str | None:
    try:
        codec.decode_payload(codec.payload_decoder(Any), Message(type="x", data=msgspec.Raw(data)))
    except Refusal as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize(
    "number", [b"1.1e300", b"-5E-324", b"1e+308", b"1" * 120, b"0." + b"0" * 99]
)
def test_a_few_numbers_that_take_long_to_read_are_read_and_many_are_not(number: bytes) -> None:
    few, many = ([number] * count for count in (FEW_NUMBERS, FEW_NUMBERS + 2))
    assert code_of(b"[" + b",".join(few) + b"]") is None
    assert code_of(b"[" + b",".join(many) + b"]") == "invalid_payload"


def test_numbers_as_people_have_them_are_read_however_many() -> None:
    for number in (b"1.6e-19", b"6.02214076e+23", b"0.1000000000000000055511151231257827", b"1e99"):
        assert code_of(b"[" + b",".join([number] * 5000) + b"]") is None


def test_digits_in_strings_are_no_numbers() -> None:
    for text in ('1e308 "1e308', "\\1e308", "0" * 200, '\\"1e308'):
        assert code_of(json.dumps([text] * 100).encode()) is None


def test_what_is_read_before_anybody_is_authenticated_is_bounded_as_well() -> None:
    data = b'{"type":"auth","token":"t","x":[' + b",".join([b"1.1e300"] * 100) + b"]}"
    with pytest.raises(Refusal) as caught:
        codec.decode_fields(data)
    assert caught.value.code == "bad_message"
