"""What each client says and hears: it opens, authenticates, asks and closes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeAlias

QUESTION: Final = "Grüße, 世界 🌍"
SUBPROTOCOL: Final = "trioserver.v1"

Steps: TypeAlias = Generator[str | None, str, str]


def steps(token: str) -> Steps:
    """Yields a text to send, or None for one to be received; returns what was answered."""
    assert _type_of((yield None)) == "hello"
    yield json.dumps({"type": "auth", "token": token})
    assert _type_of((yield None)) == "ready"
    yield json.dumps({"type": "echo", "id": 1, "data": QUESTION})
    answer = json.loads((yield None))
    assert answer["type"] == "ack"
    return str(answer["data"])


def _type_of(text: str) -> str:
    return str(json.loads(text)["type"])


def converse(token: str, send: Callable[[str], object], receive: Callable[[], Any]) -> str:
    """With a client that blocks."""
    conversation, heard = steps(token), ""
    try:
        step = next(conversation)
        while True:
            if step is None:
                heard = str(receive())
            else:
                send(step)
            step = conversation.send(heard)
    except StopIteration as end:
        return str(end.value)


async def converse_async(
    token: str, send: Callable[[str], Awaitable[object]], receive: Callable[[], Awaitable[Any]]
) -> str:
    """With one that is asynchronous."""
    conversation, heard = steps(token), ""
    try:
        step = next(conversation)
        while True:
            if step is None:
                heard = str(await receive())
            else:
                await send(step)
            step = conversation.send(heard)
    except StopIteration as end:
        return str(end.value)
