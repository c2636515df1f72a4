"""Handlers and hooks of every make: what runs is what the function is, not what it looks like."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import ERRORS, Fatal
from tests.support.app import World, serving
from trioserver import Application, Connection, Disconnect, Presence, Refusal, RequestError, User
from trioserver.app.functions import Kind
from trioserver.app.handlers import make_handler


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write it: plain, whatever it decorates."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


async def asynchronous(connection: Connection, number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number + 1


def plain(connection: Connection, number: int) -> int:
    return number + 1


async def streaming(connection: Connection, number: int) -> AsyncIterator[int]:
    await trio.lowlevel.checkpoint()
    yield number + 1


async def with_more(more: int, connection: Connection, number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number + more


async def with_keyword(connection: Connection, number: int, *, more: int = 0) -> int:
    await trio.lowlevel.checkpoint()
    return number + more


async def streaming_more(more: int, connection: Connection, number: int) -> AsyncIterator[int]:
    yield number + more


class Asynchronous:
    async def __call__(self, connection: Connection, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number + 1

    async def method(self, connection: Connection, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number + 1


class Plain:
    def __call__(self, connection: Connection, number: int) -> int:
        return number + 1


class Streaming:
    async def __call__(self, connection: Connection, number: int) -> AsyncIterator[int]:
        yield number + 1


MAKES: list[tuple[Callable[..., Any], Kind]] = [
    (plain, Kind.INLINE),
    (logged(plain), Kind.INLINE),
    (Plain(), Kind.INLINE),
    (functools.partial(plain), Kind.INLINE),
    (asynchronous, Kind.LOOP),
    (logged(asynchronous), Kind.LOOP),
    (logged(logged(asynchronous)), Kind.LOOP),
    (awaited(asynchronous), Kind.LOOP),
    (awaited(logged(asynchronous)), Kind.LOOP),
    (Asynchronous(), Kind.LOOP),
    (Asynchronous().method, Kind.LOOP),
    (logged(Asynchronous().method), Kind.LOOP),
    (logged(Asynchronous()), Kind.LOOP),
    (functools.partial(Asynchronous()), Kind.LOOP),
    (functools.partial(with_more, 1), Kind.LOOP),
    (functools.partial(with_keyword, more=1), Kind.LOOP),
    (logged(functools.partial(with_more, 1)), Kind.LOOP),
    (functools.partial(logged(with_more), 1), Kind.LOOP),
    (streaming, Kind.STREAM),
    (logged(streaming), Kind.STREAM),
    (Streaming(), Kind.STREAM),
    (functools.partial(streaming_more, 1), Kind.STREAM),
    (logged(functools.partial(streaming_more, 1)), Kind.STREAM),
]


@pytest.mark.parametrize(("function", "kind"), MAKES)
async def test_each_make_of_function_runs_as_what_it_is(
    function: Callable[..., Any], kind: Kind, autojump_clock: MockClock
) -> None:
    app = Application(auth=World().authenticate)
    app.route("/ws/1").on("go")(function)
    async with serving(app=app) as harness:
        client = await harness.ready()
        await client.send(type="go", id=1, data=41)
        answer = await client.receive()
        assert (answer["type"], answer["data"]) == ("chunk" if kind is Kind.STREAM else "ack", 42)
        await client.send(type="go", id=2, data="no number")
        await client.receive_until("error")
    assert make_handler("go", function).kind is kind


async def test_a_plain_function_that_gives_a_coroutine_is_told_to_its_author_and_nothing_leaks(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    app = Application(auth=World().authenticate)
    app.route("/ws/1").on("go")(lambda connection, number: asynchronous(connection, number))
    async with serving(app=app) as harness:
        client = await harness.ready()
        for id in (1, 2):  # warnings are errors here: a coroutine that nobody closed would be one
            await client.send(type="go", id=id, data=41)
            assert (await client.receive())["code"] == "internal_error"
        await client.send(type="go", data=41)
        assert (await client.receive())["code"] == "internal_error"
    assert "make it an async def" in capsys.readouterr().out


def test_a_parameter_that_nobody_would_give_is_a_mistake() -> None:
    async def handler(connection: Connection, number: int, *, store: object) -> None: ...

    with pytest.raises(TypeError, match="'store' without a default"):
        make_handler("go", handler)
    assert not make_handler("go", functools.partial(handler, store=1)).takes_id


@pytest.mark.parametrize("name", ["on_ready", "on_close", "allow_subscribe", "allow_publish"])
def test_a_second_function_for_the_same_thing_is_a_mistake(name: str) -> None:
    route = Application(auth=World().authenticate).route("/ws")

    def first(*_: object) -> bool:
        return True

    getattr(route, name)(first)
    with pytest.raises(ValueError, match=rf"/ws has an {name} already: .*first"):
        getattr(route, name)(lambda *_: False)


@pytest.mark.parametrize("name", ["on_join", "on_leave"])
def test_a_hook_that_nobody_would_await_is_a_mistake(name: str) -> None:
    presence = Presence()

    async def hook(user: User, resource: Any) -> None: ...

    for function in (hook, logged(hook), functools.partial(hook)):
        with pytest.raises(TypeError, match="must be a plain function"):
            getattr(presence, name)(function)


def test_no_application_includes_itself_however_far_round() -> None:
    a, b, c = (Application(auth=World().authenticate) for _ in range(3))
    with pytest.raises(ValueError, match="cannot include itself"):
        a.include(a)
    a.include(b)
    b.include(c)
    for other in (a, b):
        with pytest.raises(ValueError, match="cannot include itself"):
            c.include(other)
    assert a.parts == [a, b, c]


def test_no_application_is_included_twice() -> None:
    a, b, c = (Application(auth=World().authenticate) for _ in range(3))
    a.include(b)
    b.include(c)
    for other in (b, c):
        with pytest.raises(ValueError, match="is included already"):
            a.include(other)
    assert a.parts == [a, b, c]


# ------------------------------------------------------------------------------ refusing


@pytest.mark.parametrize(
    ("error", "closes"),
    [
        (RequestError("forbidden", "You may not edit this note."), False),
        (RequestError("too_long"), False),
        (RequestError("unavailable"), False),
        (Refusal("forbidden"), False),
        (Refusal("access_denied"), True),
        (Disconnect("access_denied", "You may not be here."), True),
        (Disconnect("forbidden"), True),
        (Disconnect("unavailable"), True),
        (Disconnect("enough"), True),
    ],
)
@pytest.mark.parametrize("make", [Kind.INLINE, Kind.LOOP, Kind.STREAM])
async def test_the_name_of_a_refusal_says_whether_it_ends_the_connection(
    error: Refusal, closes: bool, make: Kind, autojump_clock: MockClock
) -> None:
    app = Application(auth=World().authenticate)
    route = app.route("/ws/1")

    def inline(connection: Connection) -> None:
        raise error

    async def loop(connection: Connection) -> None:
        raise error

    async def stream(connection: Connection) -> AsyncIterator[int]:
        raise error
        yield 1

    route.on("go")({Kind.INLINE: inline, Kind.LOOP: loop, Kind.STREAM: stream}[make])
    async with serving(app=app) as harness:
        client = await harness.ready()
        await client.send(type="go", id=1)
        answer = await client.receive()
        assert (answer["code"], answer["id"], answer["fatal"]) == (error.code, 1, closes)
        assert answer["message"] == error.message
        if closes:
            _, closed = await client.receive_end()
            row = ERRORS.get(error.code)
            code = row.close_code if row and row.close_code else 1008
            assert (closed.code, closed.reason) == (code, error.code)
        else:
            await client.send(type="go", id=2)
            assert (await client.receive())["id"] == 2


def test_an_answer_cannot_have_a_code_that_always_ends_the_connection() -> None:
    for code, row in ERRORS.items():
        if row.fatal is Fatal.ALWAYS:
            with pytest.raises(ValueError, match="always ends the connection"):
                RequestError(code)
        else:
            assert RequestError(code).code == code
        assert Disconnect(code).code == code
