"""What a server of this protocol has to do with those who connect, as scenarios to run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from protocol import ERRORS, close_code_of
from trioserver.client import CloseReason, WebSocketURL
from trioserver.client.options import OpenStream
from trioserver.client.raw import RawConnection, open_raw

ANSWER_TIMEOUT: Final = 15.0
"""Seconds for a server to answer a first message; its own deadline is 10 s, if it says nothing."""

SLACK: Final = 2.0
"""Seconds that a deadline may be missed by, before it counts as another one."""

_AUTH_TIMEOUT: Final = 10.0


@attrs.frozen(kw_only=True)
class Scenario:
    """Connect to ``address``, send ``first`` (None: nothing), and see what comes of it.

    ``expected``: ``ready``, or the code of the error that the connection is to end with.
    ``skipped``: why it cannot be run. ``made_up``: the user is nobody the server knows, and may
    be welcome where the route has no resource.
    """

    name: str
    expected: str
    address: WebSocketURL
    first: dict[str, Any] | None = attrs.field(default=None, repr=False)
    skipped: str | None = None
    made_up: bool = False


@attrs.frozen(kw_only=True)
class Result:
    """How a scenario went. ``passed`` is None where it was skipped; ``seconds`` is how long it
    took. ``seen`` and ``note`` are for people. ``unreachable``: there was no server to see."""

    scenario: Scenario
    passed: bool | None
    seen: str
    seconds: float = 0.0
    note: str = ""
    unreachable: CloseReason | None = None


async def run(
    scenario: Scenario, *, timeout: float, open_stream: OpenStream | None = None
) -> Result:
    """Run one. ``timeout`` seconds are for connecting."""
    if scenario.skipped is not None:
        return Result(scenario=scenario, passed=None, seen="", note=scenario.skipped)
    begun = trio.current_time()
    async with _connected(scenario.address, timeout, open_stream) as connection:
        if isinstance(connection, CloseReason):
            gone = None if connection.by_server else connection
            return Result(scenario=scenario, passed=False, seen=connection.code, unreachable=gone)
        result = await _judge(scenario, connection)
    return attrs.evolve(result, seconds=trio.current_time() - begun)


@asynccontextmanager
async def _connected(
    address: WebSocketURL, timeout: float, open_stream: OpenStream | None
) -> AsyncIterator[RawConnection | CloseReason]:
    async with trio.open_nursery() as nursery:
        connection = await open_raw(nursery, address, timeout=timeout, open_stream=open_stream)
        try:
            yield connection
        finally:
            if isinstance(connection, RawConnection):
                await connection.aclose()
            nursery.cancel_scope.cancel()


async def _judge(scenario: Scenario, connection: RawConnection) -> Result:
    begun = trio.current_time()
    hello = await _receive(connection, _AUTH_TIMEOUT)
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        return Result(
            scenario=scenario, passed=False, seen=_in_words(hello), note="hello comes first"
        )
    if scenario.first is not None:
        await connection.send(json.dumps(scenario.first))
        answer = await _receive(connection, ANSWER_TIMEOUT)
    else:
        deadline = _milliseconds(hello.get("auth_timeout_ms"))
        answer = await _receive(connection, deadline + SLACK)
        early = begun + deadline - SLACK - trio.current_time()
        if early > 0 and answer is not None:
            note = f"{early:.1f} s before its time"
            return Result(scenario=scenario, passed=False, seen=_in_words(answer), note=note)
    if scenario.expected == "ready":
        return _judge_ready(scenario, answer)
    return await _judge_error(scenario, connection, answer)


def _judge_ready(scenario: Scenario, answer: Any) -> Result:
    passed = isinstance(answer, dict) and answer.get("type") == "ready"
    return Result(scenario=scenario, passed=passed, seen=_in_words(answer))


async def _judge_error(scenario: Scenario, connection: RawConnection, answer: Any) -> Result:
    """The error message, with the table's advice; then the close, with the table's code."""
    seen, code = _in_words(answer), scenario.expected
    if code == "access_denied" and isinstance(answer, dict) and _is_own(answer.get("code")):
        code = str(answer["code"])
    if not isinstance(answer, dict) or answer.get("code") != code:
        if scenario.made_up and isinstance(answer, dict) and answer.get("resource") == {}:
            return Result(scenario=scenario, passed=None, seen="", note="no resource at this URL")
        return Result(scenario=scenario, passed=False, seen=seen)
    wrong = [
        f"{name} is {json.dumps(answer.get(name))}, not {json.dumps(value)}"
        for name, value in (("type", "error"), ("fatal", True), ("retry", _retry(code)))
        if answer.get(name) != value
    ]
    closed = await _receive(connection, ANSWER_TIMEOUT)
    if not isinstance(closed, CloseReason):
        wrong.append("it does not close")
    elif (closed.close_code, closed.code) != (close_code_of(code), code):
        wrong.append(f"closed with {closed.close_code} {closed.code}")
    else:
        seen = f"{closed.close_code} {code}"
    return Result(scenario=scenario, passed=not wrong, seen=seen, note="; ".join(wrong))


def _is_own(code: object) -> bool:
    """Whether an application says in a word of its own that a resource is not the user's."""
    return isinstance(code, str) and code not in ERRORS


def _retry(code: str) -> str:
    return ERRORS[code].retry if code in ERRORS else "never"


async def _receive(connection: RawConnection, seconds: float) -> Any:
    """A message as an object, how the connection ended, or None where nothing came."""
    with trio.move_on_after(seconds):
        message = await connection.receive()
        if isinstance(message, CloseReason):
            return message
        try:
            value = json.loads(message)
        except (ValueError, RecursionError):
            return message
        return value if isinstance(value, dict) else message
    return None


def _milliseconds(value: object) -> float:
    """As seconds; what is no number is the protocol's default."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 600_000
    return float(value) / 1000 if is_number else _AUTH_TIMEOUT  # type: ignore[arg-type]


def _in_words(answer: Any) -> str:
    if answer is None:
        return "nothing"
    if isinstance(answer, CloseReason):
        return f"closed with {answer.close_code or 'no code'} {answer.code}"
    if isinstance(answer, dict):
        return str(answer.get("code") or answer.get("type"))
    return "what is no message"
