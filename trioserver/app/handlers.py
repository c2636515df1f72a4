"""Handlers of messages: made from functions, whose kind and annotations say how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CoroutineType
from typing import Any, Final

import attrs
import msgspec
import structlog

from protocol import codec
from protocol.codec import decode_payload
from protocol.messages import RESERVED_TYPES, Message
from trioserver.app.functions import Kind, as_kind, innermost, kind_of, name_of
from trioserver.logs.context import UNBOUND, set_request_id
from trioserver.logs.lines import may_log

log: Final = structlog.get_logger("trioserver")

_MAX_PARAMETERS: Final = 3  # the connection, the payload, and the message's id


@attrs.frozen
class Handler:
    """The function for messages of one ``type``, and what it takes."""

    type: str
    kind: Kind
    function: Callable[..., Any]
    takes_id: bool = False
    decoder: msgspec.json.Decoder[Any] | None = attrs.field(default=None, repr=False)

    def arguments(self, message: Message) -> tuple[Any, ...]:
        """Return the decoded payload and the id, as far as the function takes them.

        Raises `protocol.Refusal` for a payload that does not fit the annotation.
        """
        if self.decoder is None:
            return ()
        payload = decode_payload(self.decoder, message)
        return (payload, message.id) if self.takes_id else (payload,)


def make_handler(type: str, function: Callable[..., Any]) -> Handler:
    """Make a handler from a function.

    Raises `ValueError` or `TypeError`, with the function's name and what to change.
    """
    name = name_of(function)
    check_type(type)
    parameters = _positional(function, name)
    if not 1 <= len(parameters) <= _MAX_PARAMETERS:
        raise TypeError(
            f"{name} must take 1 to {_MAX_PARAMETERS} parameters: the connection, and optionally "
            "the payload and the message's id"
        )
    kind = kind_of(function)
    called = as_kind(function, kind)
    if len(parameters) == 1:
        return Handler(type, kind, called)
    payload = _payload_type(function, parameters[1])
    try:
        decoder = codec.payload_decoder(payload)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} takes {payload!r}, which cannot be decoded: {error}") from None
    return Handler(
        type,
        kind,
        called,
        takes_id=len(parameters) == _MAX_PARAMETERS,
        decoder=decoder,
    )


def check_type(type: str) -> None:
    """Raise `ValueError` unless ``type`` can be the type of an application's message."""
    if not codec.is_type_name(type):
        raise ValueError(
            f"invalid message type {type!r}: use 1 to 64 of the characters a-z 0-9 _ . : -"
        )
    if type in RESERVED_TYPES:
        raise ValueError(f"invalid message type {type!r}: it is reserved for the protocol")


def call_inline(handler: Handler, connection: Any, message: Message) -> Any:
    """Call a `def` handler with a message. Lines that it logs have the request's id."""
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


def _positional(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """Return the positional parameters. Raises `TypeError` for a required keyword-only one."""
    positional = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                raise TypeError(
                    f"{name} has a keyword-only parameter {parameter.name!r} without a default; "
                    "handlers are called with positional arguments only"
                )
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            positional.append(parameter)
    return positional


def _payload_type(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation, evaluated if it is text; `Any`, plain JSON types, if there is none.

    Only this annotation is evaluated: others may name what exists for type checkers alone.
    """
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    target = innermost(function)
    scope = dict(inspect.getclosurevars(target).nonlocals) if inspect.isfunction(target) else {}
    try:
        return eval(annotation, getattr(target, "__globals__", {}), scope)
    except NameError:
        raise TypeError(
            f"{target.__qualname__}: the type {annotation!r} of its payload is not defined where "
            "the handler is registered; define it at the top of the module"
        ) from None
