"""Any bytes give a message or a documented error, in time that grows as the input does."""

from __future__ import annotations

import json
from typing import Any, Literal

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import ERRORS, Refusal, codec
from protocol.messages import Auth, Message, Subscribe
from protocol.structure import MAX_DEPTH, check_depth

MIB = 1024 * 1024
DECODERS = (
    codec.decode_client,
    codec.decode_server,
    codec.decode_auth_alias,
    codec.decode_envelope,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
almost_messages = st.fixed_dictionaries(
    {"type": st.sampled_from(["auth", "ping", "subscribe", "publish", "ready", "error", "x"])},
    optional=dict.fromkeys(
        ["id", "token", "data", "topics", "topic", "client", "code"], json_values
    ),
).map(lambda message: json.dumps(message).encode())
any_input = st.binary() | st.text().map(lambda text: text.encode()) | almost_messages


def code_of(data: bytes, decode: Any = codec.decode_client) -> str:
    with pytest.raises(Refusal) as caught:
        decode(data)
    return caught.value.code


@given(any_input)
@example(b"")
@example(b"\xff")
@example(b'{"type":"auth","x":' + b"9" * 5000 + b"}")
@example(b'{"type":"auth","token":"\\ud800"}')
def test_any_input_gives_a_message_or_a_documented_error(data: bytes) -> None:
    for decode in DECODERS:
        try:
            message: Any = decode(data)
            code, text = "bad_message", ""
        except Refusal as refusal:
            message, code, text = None, refusal.code, refusal.message
        assert code in ERRORS
        assert len(text) <= codec.MAX_EXPLANATION + 1
        codec.encode([message, text])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_message"),
        ("hello", "bad_message"),
        ("null", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        ('{"type":1}', "bad_message"),
        ('{"type":"x"} {"type":"x"}', "bad_message"),
        ('\ufeff{"type":"x"}', "bad_message"),
        ('{"type":"x","data":NaN}', "bad_message"),
        ('{"type":"x","data":01}', "bad_message"),
        ('{"type":"x","data":"\\q"}', "bad_message"),
        ('{"type":"x","data":"\\ud800"}', "bad_message"),
        ('{"type":"x","data":"\n"}', "bad_message"),
        ('{"type":"auth","token":1}', "invalid_payload"),
        ('{"type":"auth","heartbeat":1}', "invalid_payload"),
        ('{"type":"cancel"}', "invalid_payload"),
        ('{"type":"publish","topic":"","data":1}', "invalid_payload"),
        ('{"type":"subscribe","topics":[]}', "invalid_payload"),
    ],
)
def test_what_is_wrong_has_its_code(text: str, code: str) -> None:
    assert code_of(text.encode()) == code


@pytest.mark.parametrize("where", ['"type":"%s"', '"type":"x","data":"%s"', '"type":"x","%s":1'])
def test_text_that_is_not_utf8_is_refused_wherever_it_stands(where: str) -> None:
    assert code_of(b"{" + where.encode().replace(b"%s", b"\xff") + b"}") == "not_utf8"
    assert code_of(b"{" + where.encode().replace(b"%s", b"\xed\xa0\x80") + b"}") == "not_utf8"


def test_the_last_of_two_equal_keys_counts_in_envelope_and_message_alike() -> None:
    assert codec.decode_client(b'{"type":"subscribe","topics":["a"],"topics":["b"]}') == Subscribe(
        topics=("b",)
    )
    assert codec.decode_client(b'{"type":"auth","type":"x"}') == Message(type="x")


@pytest.mark.parametrize("first", ["ping", "x"])
def test_a_message_of_two_types_is_not_taken_for_the_first(first: str) -> None:
    assert code_of(f'{{"type":"{first}","type":"auth"}}'.encode()) == "invalid_payload"


def test_unknown_fields_are_ignored() -> None:
    assert codec.decode_client(b'{"type":"auth","token":"t","new":{"deep":[1]}}') == Auth(token="t")


def test_a_value_that_is_not_allowed_is_not_repeated_at_full_length() -> None:
    decoder = codec.payload_decoder(Literal["yes", "no"])
    message = codec.decode_envelope(b'{"type":"x","data":"' + b"x" * 100_000 + b'"}')
    with pytest.raises(Refusal) as caught:
        codec.decode_payload(decoder, message)
    assert len(caught.value.message) <= codec.MAX_EXPLANATION + 1


def test_an_alias_leaves_out_only_the_fields_that_do_not_fit() -> None:
    auth = codec.decode_auth_alias(
        b'{"type":"initial","token":"t","client":"web","heartbeat":5,"id":1}'
    )
    assert auth == Auth(token="t", id=1)


@pytest.mark.parametrize("name", ["a", "a" * 64, "a.b:c-d_9"])
def test_a_type_name_may_be(name: str) -> None:
    assert codec.is_type_name(name)


@pytest.mark.parametrize("name", ["", "a" * 65, "A", "ä", "a b", "a\n"])
def test_a_type_name_may_not_be(name: str) -> None:
    assert not codec.is_type_name(name)


# -------------------------------------------------------------------------------- payloads


@attrs.frozen
class Note:
    text: str
    stars: int = attrs.field(default=1, validator=attrs.validators.le(5))


def test_a_payload_is_read_into_the_handlers_type() -> None:
    decoder = codec.payload_decoder(Note)
    message = Message(type="note", data=msgspec.Raw(b'{"text":"hi"}'))
    assert codec.decode_payload(decoder, message) == Note("hi")


@pytest.mark.parametrize(
    ("data", "path"),
    [(b'{"text":5}', "$.text"), (b'{"text":"hi","stars":9}', "stars"), (b"[]", "")],
)
def test_a_payload_that_does_not_fit_names_the_field(data: bytes, path: str) -> None:
    with pytest.raises(Refusal) as caught:
        codec.decode_payload(
            codec.payload_decoder(Note), Message(type="note", data=msgspec.Raw(data))
        )
    assert caught.value.code == "invalid_payload"
    assert path in caught.value.message


def test_absent_data_reads_as_null() -> None:
    assert codec.decode_payload(codec.payload_decoder(int | None), Message(type="x")) is None


# -------------------------------------------------------------------------------- depth and size


def depth_of(data: bytes) -> int:
    """Byte by byte: the deepest nesting outside of strings."""
    depth = deepest = 0
    inside = escaped = False
    for byte in data.decode("latin-1"):
        if inside:
            if escaped:
                escaped = False
            elif byte == "\\":
                escaped = True
            elif byte == '"':
                inside = False
        elif byte == '"':
            inside = True
        elif byte in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in "]}":
            depth -= 1
    return deepest


awkward = st.text(alphabet='[]{}"\\a', max_size=9)


def wrapped(levels: list[str | None], inner: Any) -> Any:
    """``inner`` in a list for each None, in an object for each key, with brackets in strings."""
    for key in levels:
        inner = [inner, "[[{"] if key is None else {key: inner, "": '\\"['}
    return inner


@given(st.lists(st.none() | awkward, min_size=50, max_size=80), awkward)
def test_the_depth_is_judged_as_by_a_slow_reader(levels: list[str | None], inner: str) -> None:
    data = json.dumps(wrapped(levels, inner)).encode()
    try:
        check_depth(data)
        refused = False
    except Refusal:
        refused = True
    assert refused == (depth_of(data) > MAX_DEPTH)


@given(st.lists(st.sampled_from([b"[" * 40, b"{" * 40, b"]" * 9, b'"', b"\\", b"x", b"{[" * 40])))
def test_brackets_that_never_match_harm_no_parser(pieces: list[bytes]) -> None:
    assert code_of(b'{"type":"auth","x":' + b"".join(pieces)) == "bad_message"


def test_brackets_in_strings_and_side_by_side_do_not_count() -> None:
    check_depth(b'{"a":"' + b"[" * 1000 + b'"}')
    check_depth(b"[" + b"[]," * 1000 + b"[]]")


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 100_000])
@pytest.mark.parametrize("brackets", [b"[]", b"{}"])
def test_nesting_ends_at_the_limit(depth: int, brackets: bytes) -> None:
    opening = b'{"a":' if brackets == b"{}" else b"["
    levels = depth - 1  # the message itself is one
    data = b'{"type":"x","data":' + opening * levels + b"1" + brackets[1:] * levels + b"}"
    if depth > MAX_DEPTH:
        assert code_of(data) == "bad_message"
    else:
        assert isinstance(codec.decode_client(data), Message)


def test_what_is_nested_too_deeply_is_refused_before_it_is_parsed() -> None:
    for decode in DECODERS:
        assert code_of(b"[" * 100_000, decode) == "bad_message"


@pytest.mark.parametrize(
    "piece",
    [b'"', b"\\", b'\\"', b'"\\', b'["', b"[]", b"{", b"]", b'"a', b'{"a":', b"9", b'"a":1,', b" ",
     b"\xc3\xbc", b"\xff"],
)  # fmt: skip
@pytest.mark.parametrize("head", [b"", b'{"type":"x","data":', b"[" * 65 + b'"'])
def test_a_mebibyte_of_each_trap_is_judged(head: bytes, piece: bytes) -> None:
    # In quadratic time one of these takes hours: that this test ends is what it says.
    data = (head + piece * (MIB // len(piece)))[:MIB]
    assert code_of(data) in ("bad_message", "not_utf8")
