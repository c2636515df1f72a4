"""The field `traceparent`: what is malformed is ignored, and never costs a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol import codec
from protocol.messages import Message
from protocol.traceparent import traceparent_of

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def decoded(**fields: Any) -> Message:
    return codec.decode_envelope(json.dumps({"type": "ask", "id": 1, **fields}).encode())


def test_a_good_one_is_read() -> None:
    assert traceparent_of(decoded(traceparent=GOOD)) == GOOD


def test_none_is_none() -> None:
    assert traceparent_of(decoded()) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        True,
        [],
        {"traceparent": GOOD},
        "",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "\n",
        GOOD + "-extra",
        "ff" + GOOD[2:],
        GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        GOOD.replace("b7ad6b7169203331", "0" * 16),
        "x" * 100_000,
    ],
)
def test_a_malformed_one_is_ignored(value: Any) -> None:
    message = decoded(traceparent=value)
    assert (message.type, message.id) == ("ask", 1)
    assert traceparent_of(message) is None


def test_messages_of_the_server_have_none() -> None:
    assert codec.encode(Message(type="ask", id=1)) == b'{"type":"ask","id":1}'
