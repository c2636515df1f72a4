"""Scenarios: connect, send a first message, and compare the response with the protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from protocol import ERRORS, close_code_of
from trioserver.client import CloseReason, WebSocketURL
from trioserver.client.options import OpenStream
from trioserver.client.raw import RawConnection, open_raw

ANSWER_TIMEOUT: Final = 15.0
"""Seconds to wait for the response to a first message. Servers close after 10 s by default."""

SLACK: Final = 2.0
"""Seconds by which a server may miss the deadline that it announced."""

_AUTH_TIMEOUT: Final = 10.0


@attrs.frozen(kw_only=True)
class Scenario:
    """Connect to ``address``, send ``first`` (None: nothing), and expect ``expected``.

    ``expected``: ``ready``, or the code of the error that the connection must be closed with.
    ``skipped``: why the scenario cannot be run. ``unknown_user``: the server does not know the
    token's user, and may accept it if the route has no resource.
    """

    name: str
    expected: str
    address: WebSocketURL
    first: dict[str, Any] | None = attrs.field(default=None, repr=False)
    skipped: str | None = None
    unknown_user: bool = False


@attrs.frozen(kw_only=True)
class Result:
    """The result of a scenario. ``passed`` is None if it was skipped.

    ``seconds`` is its duration; ``seen`` and ``note`` are shown to the operator. ``unreachable``
    is set if there is no server at the URL.
    """

    scenario: Scenario
    passed: bool | None
    seen: str
    seconds: float = 0.0
    note: str = ""
    unreachable: CloseReason | None = None


async def run(
    scenario: Scenario, *, timeout: float, open_stream: OpenStream | None = None
) -> Result:
    """Run one scenario, with ``timeout`` seconds to connect."""
    if scenario.skipped is not None:
        return Result(scenario=scenario, passed=None, seen="", note=scenario.skipped)
    begun = trio.current_time()
    async with _connected(scenario.address, timeout, open_stream) as connection:
        if isinstance(connection, CloseReason):
            gone = None if connection.by_server else connection
            return Result(scenario=scenario, passed=False, seen=connection.code, unreachable=gone)
        result = await _evaluate(scenario, connection)
    return attrs.evolve(result, seconds=trio.current_time() - begun)


async def run_all(scenarios: Sequence[Scenario], **options: Any) -> list[Result]:
    """Run all scenarios concurrently, so that their waiting times do not add up."""
    results: dict[int, Result] = {}

    async def one(index: int) -> None:
        results[index] = await run(scenarios[index], **options)

    async with trio.open_nursery() as nursery:
        for index in range(len(scenarios)):
            nursery.start_soon(one, index)
    return [results[index] for index in range(len(scenarios))]


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


async def _evaluate(scenario: Scenario, connection: RawConnection) -> Result:
    begun = trio.current_time()
    hello = await _receive(connection, _AUTH_TIMEOUT)
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        return Result(
            scenario=scenario,
            passed=False,
            seen=_in_words(hello),
            note="the first message must be hello",
        )
    if scenario.first is not None:
        await connection.send(json.dumps(scenario.first))
        answer = await _receive(connection, ANSWER_TIMEOUT)
    else:
        deadline = _milliseconds(hello.get("auth_timeout_ms"))
        answer = await _receive(connection, deadline + SLACK)
        early = begun + deadline - SLACK - trio.current_time()
        if early > 0 and answer is not None:
            note = f"{early:.1f} s before the deadline that hello announced"
            return Result(scenario=scenario, passed=False, seen=_in_words(answer), note=note)
    if scenario.expected == "ready":
        return _evaluate_ready(scenario, answer)
    return await _evaluate_error(scenario, connection, answer)


def _evaluate_ready(scenario: Scenario, answer: Any) -> Result:
    passed = isinstance(answer, dict) and answer.get("type") == "ready"
    return Result(scenario=scenario, passed=passed, seen=_in_words(answer))


async def _evaluate_error(scenario: Scenario, connection: RawConnection, answer: Any) -> Result:
    """Expect the error message with its fields, then the close with its code, as in `ERRORS`."""
    seen, code = _in_words(answer), scenario.expected
    if (
        code == "access_denied"
        and isinstance(answer, dict)
        and _is_applications(answer.get("code"))
    ):
        code = str(answer["code"])
    if not isinstance(answer, dict) or answer.get("code") != code:
        if scenario.unknown_user and isinstance(answer, dict) and answer.get("resource") == {}:
            return Result(
                scenario=scenario,
                passed=None,
                seen="",
                note="the route at this URL has no resource",
            )
        return Result(scenario=scenario, passed=False, seen=seen)
    wrong = [
        f"{name} is {json.dumps(answer.get(name))}, not {json.dumps(value)}"
        for name, value in (("type", "error"), ("fatal", True), ("retry", _retry(code)))
        if answer.get(name) != value
    ]
    closed = await _receive(connection, ANSWER_TIMEOUT)
    if not isinstance(closed, CloseReason):
        wrong.append("the connection is not closed")
    elif (closed.close_code, closed.code) != (close_code_of(code), code):
        wrong.append(f"closed with {closed.close_code} {closed.code}")
    else:
        seen = f"{closed.close_code} {code}"
    return Result(scenario=scenario, passed=not wrong, seen=seen, note="; ".join(wrong))


def _is_applications(code: object) -> bool:
    """Whether an application has an error code of its own for a resource of another user."""
    return isinstance(code, str) and code not in ERRORS


def _retry(code: str) -> str:
    return ERRORS[code].retry if code in ERRORS else "never"


async def _receive(connection: RawConnection, seconds: float) -> Any:
    """The next message as an object, why the connection ended, or None after ``seconds``."""
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
    """Convert to seconds; the protocol's default if it is not a valid number."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 600_000
    return float(value) / 1000 if is_number else _AUTH_TIMEOUT  # type: ignore[arg-type]


def _in_words(answer: Any) -> str:
    if answer is None:
        return "nothing"
    if isinstance(answer, CloseReason):
        return f"closed with {answer.close_code or 'no code'} {answer.code}"
    if isinstance(answer, dict):
        return str(answer.get("code") or answer.get("type"))
    return "not a JSON object"
