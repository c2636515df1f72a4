"""Looks at the functions that an embedder registers: their kind, and how to call them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from enum import Enum
from typing import Any, Final

_MAX_LAYERS: Final = 50  # of decorators and partials around a function


class Kind(Enum):
    """How a function runs as a handler."""

    INLINE = "inline"
    """`def`: runs where the message is decoded; it must not block."""
    LOOP = "loop"
    """`async def`: runs in the connection's message loop, in order of arrival."""
    STREAM = "stream"
    """`async def` with `yield`: runs as a task of its own."""


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function for a message to its author."""
    return str(getattr(innermost(function), "__qualname__", repr(function)))


def kind_of(function: Callable[..., Any]) -> Kind:
    """Return how a function runs.

    Looks through `functools.partial`, decorators that use `functools.wraps`, and the ``__call__``
    of an object.
    """
    for each in _layers(function):
        kind = _own_kind(each)
        if kind is not Kind.INLINE:
            return kind
    return Kind.INLINE


def refuse_async(function: Callable[..., Any], where: str) -> None:
    """Raise `TypeError` for an async function, because the caller does not await it."""
    if kind_of(function) is not Kind.INLINE:
        raise TypeError(f"{where}: {name_of(function)} must be a plain function, not an async one")


def as_kind(function: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """Return ``function``, or a wrapper for it that `inspect` also recognises as of this ``kind``.

    A partial or a decorated function may be async without looking so.
    """
    if _own_kind(function) is kind:
        return function

    async def loop(*arguments: Any) -> Any:
        return await call(function, *arguments)

    async def stream(*arguments: Any) -> AsyncIterator[Any]:
        async with aclosing(await call(function, *arguments)) as values:
            async for value in values:
                yield value

    adapted: Callable[..., Any] = stream if kind is Kind.STREAM else loop
    adapted.__qualname__ = name_of(function)
    return adapted


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside all partials and decorators."""
    *_, last = _layers(function)
    return last


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a plain or an async function, and return its result."""
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


def unwrap(error: Exception) -> Exception:
    """Return the one exception inside nested groups of one, which nurseries create."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _own_kind(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.STREAM
    if inspect.iscoroutinefunction(function):
        return Kind.LOOP
    return Kind.INLINE


def _layers(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the function and each one that it passes its calls to, outermost first."""
    for _ in range(_MAX_LAYERS):
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not inspect.isroutine(function) and not inspect.isclass(function):
            function = type(function).__call__
        else:
            return
