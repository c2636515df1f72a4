"""What is on the wire is held against the published schemas, in every test of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trio.testing import MockClock

from tests.support.app import serving
from tests.support.wire_messages import WireMessages, complaint


async def test_the_messages_of_both_sides_are_looked_at(
    autojump_clock: MockClock, wire_messages: WireMessages
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.request("echo", {"text": "hi"})
    assert wire_messages.counts == {"ServerMessage": 3, "ClientMessage": 2}
    assert not wire_messages.complaints


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("ServerMessage", {"type": "ack"}),
        ("ServerMessage", {"type": "hello", "protocol": "trioserver.v1"}),
        ("ServerMessage", {"type": "auth", "token": "t"}),
        ("ServerMessage", {"type": "pong", "timestamp": "yesterday"}),
        ("ServerMessage", {"type": "No Type"}),
        ("ClientMessage", {"type": "cancel"}),
        ("ClientMessage", {"type": "echo", "id": ""}),
        ("ClientMessage", {"type": "ack", "id": 1}),
        ("ClientMessage", {"type": "auth", "token": 5}),
    ],
)
def test_a_message_that_does_not_fit_is_complained_about(
    side: str, message: dict[str, Any]
) -> None:
    assert complaint(side, json.dumps(message).encode()) is not None
