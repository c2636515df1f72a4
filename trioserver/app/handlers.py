"""Handlers: the kind of function says how it runs, its annotation what it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from enum import Enum
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
import structlog

from protocol import codec
from protocol.codec import decode_payload
from protocol.messages import RESERVED_TYPES, Message
from trioserver.logs.context import UNBOUND, set_request_id
from trioserver.logs.lines import may_log

if TYPE_CHECKING:
    from trioserver.app.connection import Connection

log: Final = structlog.get_logger("trioserver")

_MAX_PARAMETERS: Final = 3  # the connection, the payload, and the message's id

_MAX_LAYERS: Final = 50  # of decorators and partials around a function


class Kind(Enum):
    """How a handler runs."""

    INLINE = "inline"
    """`def`: where the message was decoded; it must not block."""
    LOOP = "loop"
    """`async def`: in the connection's message loop, in order of arrival."""
    STREAM = "stream"
    """`async def` with `yield`: as a task of its own."""


@attrs.frozen
class Handler:
    """What happens on a message of one ``type``."""

    type: str
    kind: Kind
    function: Callable[..., Any]
    takes_payload: bool
    takes_id: bool = False
    decoder: msgspec.json.Decoder[Any] | None = attrs.field(default=None, repr=False)

    def arguments(self, message: Message) -> tuple[Any, ...]:
        """The payload, decoded, and the id, where the function takes them. `protocol.Refusal`."""
        if self.decoder is None:
            return ()
        payload = decode_payload(self.decoder, message)
        return (payload, message.id) if self.takes_id else (payload,)


def make_handler(type: str, function: Callable[..., Any]) -> Handler:
    """Look at a function and make a handler of it.

    Raises `ValueError` or `TypeError`, with the function's name and what to change.
    """
    name = name_of(function)
    if not codec.is_type_name(type):
        raise ValueError(f"{type!r} is no message type: 1-64 of a-z 0-9 _ . : - are")
    if type in RESERVED_TYPES:
        raise ValueError(f"{type!r} is a message type of the protocol's own; choose another")
    parameters = _positional(function, name)
    if not 1 <= len(parameters) <= _MAX_PARAMETERS:
        raise TypeError(
            f"{name} must take the connection, and if it wants them the payload and the id"
        )
    kind = kind_of(function)
    called = function if _kind_of_itself(function) is kind else _adapted(function, kind)
    if len(parameters) == 1:
        return Handler(type, kind, called, takes_payload=False)
    payload = _payload_type(function, parameters[1])
    try:
        decoder = codec.payload_decoder(payload)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} takes {payload!r}, which JSON cannot be read into: {error}"
        ) from None
    return Handler(
        type,
        kind,
        called,
        takes_payload=True,
        takes_id=len(parameters) == _MAX_PARAMETERS,
        decoder=decoder,
    )


def name_of(function: Callable[..., Any]) -> str:
    """What to call it in a message for its author."""
    return str(getattr(_innermost(function), "__qualname__", repr(function)))


def kind_of(function: Callable[..., Any]) -> Kind:
    """How a function runs; also one in a `functools.partial`, in a decorator that uses
    `functools.wraps`, or in the ``__call__`` of an object."""
    for each in _layers(function):
        kind = _kind_of_itself(each)
        if kind is not Kind.INLINE:
            return kind
    return Kind.INLINE


def refuse_async(function: Callable[..., Any], where: str) -> None:
    """Raises `TypeError` for an async function where nobody would await it."""
    if kind_of(function) is not Kind.INLINE:
        raise TypeError(f"{where}: {name_of(function)} must be a plain function, not an async one")


def _kind_of_itself(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.STREAM
    if inspect.iscoroutinefunction(function):
        return Kind.LOOP
    return Kind.INLINE


def _layers(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The function, and what it hands its calls on to, from the outside in."""
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


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    *_, last = _layers(function)
    return last


def _adapted(function: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """What does not look it from outside, made into an ``async def``, with or without ``yield``."""

    async def loop(*arguments: Any) -> Any:
        return await call(function, *arguments)

    async def stream(*arguments: Any) -> AsyncIterator[Any]:
        async with aclosing(await call(function, *arguments)) as values:
            async for value in values:
                yield value

    adapted: Callable[..., Any] = stream if kind is Kind.STREAM else loop
    adapted.__qualname__ = name_of(function)
    return adapted


def _positional(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that may be given by their place. Raises `TypeError` for others without a
    default."""
    positional = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                raise TypeError(f"{name} has a parameter {parameter.name!r} that nobody gives it")
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            positional.append(parameter)
    return positional


def _payload_type(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation, resolved also where it is text; plain JSON types where there is none.

    Only this one is resolved: others may name what exists for type checkers alone.
    """
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    target = _innermost(function)
    scope = dict(inspect.getclosurevars(target).nonlocals) if inspect.isfunction(target) else {}
    try:
        return eval(annotation, getattr(target, "__globals__", {}), scope)
    except NameError:
        raise TypeError(
            f"{target.__qualname__}: the type {annotation!r} of its payload is not known where the "
            "handler is registered; define it at the top of the module"
        ) from None


def unwrap(error: Exception) -> Exception:
    """The one exception inside of groups of one, which nurseries make; else the same."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def call_inline(handler: Handler, connection: Connection, message: Message) -> Any:
    """Call a `def` handler with a message of its type; lines that it logs name the request."""
    id, decoder = message.id, handler.decoder
    set_request_id(UNBOUND if id is None else id)
    if decoder is None:
        result = handler.function(connection)
    else:
        payload = decode_payload(decoder, message)
        if handler.takes_id:
            result = handler.function(connection, payload, id)
        else:
            result = handler.function(connection, payload)
    if type(result) is CoroutineType:
        result.close()
        if may_log("handler_not_awaited", user=connection.user.id):
            log.error(
                "handler_not_awaited",
                handler=name_of(handler.function),
                hint="it is a plain function that returned a coroutine: make it an async def, or "
                "use functools.wraps in its decorator",
            )
        raise TypeError("a plain function returned a coroutine")
    return result


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a plain or an async function alike."""
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result
