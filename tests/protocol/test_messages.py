from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import Refusal, codec
from protocol.fields import raw
from protocol.generate.asyncapi import asyncapi_document
from protocol.generate.descriptions import EXAMPLES
from protocol.generate.schema import CLIENT, MESSAGES, PARTS, SERVER, messages_schema
from protocol.messages import (
    CLIENT_TYPES,
    RESERVED_TYPES,
    SERVER_TYPES,
    Auth,
    Cancel,
    End,
    Error,
    Message,
)
from protocol.times import instant, milliseconds


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_message_survives_the_journey_there_and_back(name: str) -> None:
    struct = next(struct for struct in MESSAGES if struct.__name__ == name)
    text = json.dumps(EXAMPLES[name]).encode()
    for side, decode in ((CLIENT, codec.decode_client), (SERVER, codec.decode_server)):
        if struct in side:
            message = decode(text)
            assert type(message) is struct
            assert json.loads(codec.encode(message)) == EXAMPLES[name]


def test_names_of_the_wire_are_those_of_the_specification() -> None:
    both = {"ping", "pong"}
    assert {"auth", "cancel", "subscribe", "unsubscribe", "publish"} | both == CLIENT_TYPES
    assert both | {
        "hello", "ready", "auth_expiring", "auth_refreshed", "ack", "error", "chunk", "end",
        "event", "goaway",
    } == SERVER_TYPES  # fmt: skip
    assert all(codec.is_type_name(name) for name in RESERVED_TYPES)


def test_a_message_is_a_value() -> None:
    cancel = Cancel(id=1)
    with pytest.raises(AttributeError):
        cancel.id = 2  # type: ignore[misc]
    assert cancel == Cancel(id=1)


def test_a_token_never_reaches_a_repr() -> None:
    assert "secret" not in repr(Auth(token="secret", id=1))


def test_what_says_nothing_is_left_out() -> None:
    assert codec.encode(End(id=1)) == b'{"type":"end","id":1}'


@pytest.mark.parametrize("id", ["", "x" * 65, 2**53, -(2**53), 1.5, True, [], {}])
def test_an_id_that_is_not_allowed_is_a_bad_message(id: Any) -> None:
    with pytest.raises(Refusal) as caught:
        codec.decode_client(json.dumps({"type": "echo", "id": id}).encode())
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize("id", ["x", "x" * 64, "ü" * 64, 0, -1, 2**53 - 1, None])
def test_an_id_that_is_allowed_comes_through(id: Any) -> None:
    message = codec.decode_client(json.dumps({"type": "echo", "id": id}).encode())
    assert message.id == id


@given(st.floats(allow_nan=False))
def test_any_time_has_an_instant(seconds: float) -> None:
    moment = datetime.fromisoformat(instant(seconds))
    assert moment.utcoffset() is not None
    assert instant(seconds).endswith("Z")


def test_an_instant_has_milliseconds_and_never_means_the_year_10000() -> None:
    assert instant(1.5) == "1970-01-01T00:00:01.500Z"
    assert instant(1e18) == "9999-12-31T23:59:59.000Z"
    assert instant(-1.0) == "1970-01-01T00:00:00.000Z"


@given(st.floats(allow_nan=False))
def test_a_duration_is_a_whole_number_that_is_not_negative(seconds: float) -> None:
    assert milliseconds(seconds) >= 0


def test_raw_data_is_passed_on_as_it_is() -> None:
    data = msgspec.Raw(b'{"a": 1}')
    assert raw(data) is data
    assert raw([1, "ü"]) == msgspec.Raw('[1,"ü"]'.encode())
    with pytest.raises(TypeError):
        raw(object())


# -------------------------------------------------------------------------------- growing


def optional_fields() -> list[tuple[type, str]]:
    """Of each message, the fields that may be absent."""
    return [
        (struct, field.encode_name)
        for struct in (*MESSAGES, *PARTS)
        for field in msgspec.structs.fields(struct)
        if not field.required and field.encode_name not in ("type", "data")
    ]


@pytest.mark.parametrize(("struct", "name"), optional_fields())
def test_an_optional_field_that_is_null_is_the_same_as_one_that_is_absent(
    struct: type, name: str
) -> None:
    example = example_of(struct)
    absent = {key: value for key, value in example.items() if key != name}
    with_null = {**absent, name: None}
    if struct is not Message:  # whose traceparent is looked at by those who trace
        assert read(with_null, struct) == read(absent, struct)
    messages = messages_schema()
    schema = {**messages, "oneOf": [{"$ref": f"#/$defs/{struct.__name__}"}]}
    jsonschema.Draft202012Validator(schema).validate(with_null)
    document = asyncapi_document()["components"]["schemas"][struct.__name__]
    assert admits_null(document["properties"][name])


def example_of(struct: type) -> dict[str, Any]:
    ready = EXAMPLES["Ready"]
    parts = {"ClientInfo": {}, "HeartbeatInfo": ready["heartbeat"], "Limits": ready["limits"]}
    return dict(parts.get(struct.__name__) or EXAMPLES.get(struct.__name__, {}))


def read(message: dict[str, Any], struct: type) -> Any:
    return msgspec.json.decode(json.dumps(message), type=struct)


def admits_null(schema: Any) -> bool:
    kinds = schema.get("anyOf", [schema])
    return any(kind.get("type", "null") == "null" and "$ref" not in kind for kind in kinds)


@pytest.mark.parametrize("struct", [*MESSAGES, *PARTS])
def test_each_message_takes_fields_that_are_not_known_yet(struct: type) -> None:
    read({**example_of(struct), "brand_new": {"deep": [1]}}, struct)
    messages = messages_schema()
    assert "additionalProperties" not in messages["$defs"][struct.__name__]


def test_words_that_are_not_known_yet_are_taken() -> None:
    auth = codec.decode_client(b'{"type":"auth","token":"t","heartbeat":"pigeon"}')
    assert isinstance(auth, Auth)
    error = codec.decode_server(
        b'{"type":"error","code":"new","message":"","retry":"elsewhere","fatal":true}'
    )
    assert isinstance(error, Error)
    assert (error.retry, error.advice) == ("elsewhere", "backoff")
