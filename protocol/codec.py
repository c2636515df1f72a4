"""Text to messages and back, within limits: any input gives a message or a documented error."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import Refusal
from protocol.messages import (
    CLIENT_TYPES,
    SERVER_TYPES,
    TYPE_PATTERN,
    Auth,
    ClientMessage,
    Message,
    ServerMessage,
)

MAX_DEPTH: Final = 64
"""Levels of nesting in a message. Far below the depth at which a parser runs out of stack."""

_T = TypeVar("_T")

_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_envelope: Final = msgspec.json.Decoder(Message)
_client: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)
_server: Final[msgspec.json.Decoder[ServerMessage]] = msgspec.json.Decoder(ServerMessage)
_type_pattern: Final = re.compile(TYPE_PATTERN)
# Possessive, and the closing quote optional: linear in the input, whatever the input.
_strings: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_brackets: Final = re.compile(rb"[\[{\]}]")

encode: Final = msgspec.json.Encoder().encode
"""A message as UTF-8 bytes. Raises `TypeError` or `ValueError` for what JSON cannot express."""


def decode_envelope(data: bytes) -> Message:
    """Read what every message has: ``type``, ``id``, ``data``.

    Raises `Refusal` with ``bad_message``, whose text says what is wrong.
    """
    check_depth(data)
    try:
        return _envelope.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("bad_message", _explain(error)) from None


def decode_client(data: bytes, envelope: Message | None = None) -> ClientMessage | Message:
    """Read what a client sends: a message of the protocol, or an application's `Message`.

    Raises `Refusal`: ``bad_message`` or, where a message of the protocol has a field that does not
    fit, ``invalid_payload``.
    """
    envelope = envelope or decode_envelope(data)
    if envelope.type not in CLIENT_TYPES:
        return envelope
    return _decode_reserved(_client, data)


def decode_auth_alias(data: bytes) -> Auth:
    """Read a first message of another ``type`` as if it were `auth`; fields that do not fit are
    left out, since they may mean something else there. What they say is in `decode_fields`.
    """
    fields = decode_fields(data)
    fields["type"] = "auth"
    try:
        return msgspec.convert(fields, Auth)
    except msgspec.ValidationError:
        return Auth()


def decode_server(data: bytes) -> ServerMessage | Message:
    """Read what a server sends. Raises as `decode_client`."""
    envelope = decode_envelope(data)
    if envelope.type not in SERVER_TYPES:
        return envelope
    return _decode_reserved(_server, data)


def _decode_reserved(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def decode_fields(data: bytes) -> dict[str, Any]:
    """All fields of a message as plain JSON types. Raises `Refusal` with ``bad_message``."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except _DECODE_ERRORS as error:
        raise Refusal("bad_message", _explain(error)) from None


def payload_decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for a handler's payload type: attrs class, Struct, dataclass, plain JSON types.

    Raises `TypeError` for a type that JSON cannot be decoded into.
    """
    return msgspec.json.Decoder(type_)


def decode_payload(decoder: msgspec.json.Decoder[_T], message: Message) -> _T:
    """An application message's ``data``; absent data reads as null.

    Raises `Refusal` with ``invalid_payload`` and the path of the field that does not fit. A type's
    own validation (``__post_init__``, attrs validators) may raise `ValueError` or `TypeError`;
    its text is the application's and is passed on.
    """
    data = message.data
    try:
        return decoder.decode(b"null" if data is msgspec.UNSET else data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def is_type_name(name: str) -> bool:
    """Whether an application may give a message this ``type``."""
    return _type_pattern.match(name) is not None


def check_depth(data: bytes) -> None:
    """Raise `Refusal` with ``bad_message`` where brackets nest deeper than `MAX_DEPTH`.

    Few opening brackets settle it without a look at the text: two passes at memory speed.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _brackets.finditer(_strings.sub(b"", data)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise Refusal("bad_message", f"Nested deeper than {MAX_DEPTH} levels.")


def _explain(error: Exception) -> str:
    """What is wrong and where, without the content: msgspec names types and paths, no values."""
    if isinstance(error, RecursionError):
        return f"Nested deeper than {MAX_DEPTH} levels."
    if isinstance(error, UnicodeDecodeError):
        return "A string is not UTF-8."
    text = str(error)
    return text if text.endswith(".") else text + "."
