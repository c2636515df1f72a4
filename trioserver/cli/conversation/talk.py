"""A conversation: lines become messages to the server, its messages go to a `Screen`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol

import attrs
import msgspec
import trio

from protocol.messages import CLIENT_TYPES, Error
from trioserver.client import CloseReason
from trioserver.client.close_reason import CLOSED
from trioserver.client.raw import RawConnection

SEND_TIMEOUT: Final = 30.0

_READY_TIMEOUT: Final = 30.0
"""Seconds that lines wait for `ready`. Servers close an unauthenticated client sooner."""

_LINE: Final = re.compile(r"([a-z0-9_.:-]{1,64})(?:\s+(.*))?", re.DOTALL)
_ANSWERS: Final = ("ack", "end", "error", "pong", "ready", "auth_refreshed")
_UNANSWERED: Final = ("cancel", "pong")


class Screen(Protocol):
    """Shows a conversation."""

    def received(self, text: str, message: dict[str, Any] | None) -> None:
        """Show a received text. ``message`` is None if it is not a JSON object."""

    def note(self, text: str) -> None:
        """Show a remark about what was sent."""


@attrs.frozen
class Line:
    """The ``text`` to send for a line, and the ``id`` of the expected response, if any."""

    text: str = attrs.field(repr=False)
    id: str | int | None = None
    is_message: bool = True


def parse_line(line: str, next_id: int) -> Line:
    """Parse a line into a message: ``type {json}``, or a JSON object.

    A message without an id gets ``next_id``, so that it is answered. For the protocol's own types
    the JSON contains the message's fields, for others its ``data``. Any other line is sent
    unchanged, so that invalid messages can be tried out.
    """
    message = _object(line)
    match = _LINE.fullmatch(line.strip())
    if message is None and match is not None:
        fields = _object(match[2] or "{}")
        if match[1] in CLIENT_TYPES and fields is not None:
            message = {"type": match[1]} | fields
        elif match[2] is None or _is_json(match[2]):
            message = {"type": match[1]} | ({} if match[2] is None else {"data": _value(match[2])})
    if message is None:
        return Line(line, is_message=False)
    if message.get("type") not in _UNANSWERED and "type" in message:
        if "id" in message:
            return Line(line if _object(line) else json.dumps(message), _id(message["id"]))
        message = {"type": message["type"], "id": next_id} | message
        return Line(json.dumps(message), next_id)
    return Line(line if _object(line) is not None else json.dumps(message))


def _value(text: str) -> Any:
    return json.loads(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _object(text: str) -> dict[str, Any] | None:
    value = _value(text) if _is_json(text) else None
    return value if isinstance(value, dict) else None


def _id(value: object) -> str | int | None:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


class Talk:
    """One conversation. ``first`` is sent first; lines are sent once it is answered.

    ``wait``: seconds to wait for responses after the last line.
    """

    def __init__(
        self,
        connection: RawConnection,
        screen: Screen,
        *,
        first: dict[str, Any] | None,
        wait: float,
    ) -> None:
        self._connection = connection
        self._screen = screen
        self._first = first
        self._wait = wait
        self._ids = itertools.count(1)
        self._asked: set[str | int] = set()
        self._changed = trio.Event()
        self._ready = False
        self._failure: Error | None = None
        self._reason: CloseReason | None = None

    async def run(self, lines: AsyncGenerator[str, None]) -> CloseReason:
        """Send ``lines`` until they end or the connection does; return how it ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            if self._first is not None:
                await self._send(json.dumps(self._first))
                with trio.move_on_after(_READY_TIMEOUT):
                    while not self._ready:
                        await self._changed.wait()
            async with aclosing(lines):
                async for line in lines:
                    if line.strip():
                        await self._send_line(line)
            await self._wait_for_responses()
            nursery.cancel_scope.cancel()
        if self._reason is not None:
            return self._reason
        return (
            CloseReason.local(f"No response to {len(self._asked)} of the messages.")
            if self._asked
            else CLOSED
        )

    async def _send_line(self, text: str) -> None:
        line = parse_line(text, next(self._ids))
        if not line.is_message:
            self._screen.note(
                "sent unchanged, because it is neither `type {json}` nor a JSON object"
            )
        if line.id is not None:
            self._asked.add(line.id)
        await self._send(line.text)
        if not line.is_message and self._ready:
            # The line has no id: its response comes before the pong.
            await self._send_line("ping")

    async def _send(self, text: str) -> None:
        with trio.move_on_after(SEND_TIMEOUT):
            await self._connection.send(text)

    async def _wait_for_responses(self) -> None:
        with trio.move_on_after(self._wait):
            while self._asked or self._failure is not None:  # after which it is closed
                await self._changed.wait()

    async def _listen(self, everything: trio.CancelScope) -> None:
        while True:
            text = await self._connection.receive()
            if isinstance(text, CloseReason):
                said = self._failure
                self._reason = (
                    text if said is None else CloseReason.from_error(said, text.close_code)
                )
                everything.cancel()
                return
            text = repr(text) if isinstance(text, bytes) else text
            message = _object(text)
            self._screen.received(text, message)
            if message is not None:
                await self._handle(message)

    async def _handle(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "ready":
                self._ready = True
            case "error":
                with suppress(msgspec.ValidationError):
                    error = msgspec.convert(message, Error)
                    self._failure = error if error.fatal else None
            case "ping":
                pong = {name: message[name] for name in ("id", "data") if name in message}
                await self._send(json.dumps({"type": "pong"} | pong))
        if message.get("type") in _ANSWERS:
            self._asked.discard(message.get("id", ""))
        self._changed.set()
        self._changed = trio.Event()
