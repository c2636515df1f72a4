"""Text to messages and back, within limits: any input gives a message or a documented error."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar, get_args

import msgspec
import msgspec.inspect

from protocol.errors import Refusal
from protocol.messages import (
    TYPE_PATTERN,
    Auth,
    ClientMessage,
    Message,
    ServerMessage,
)
from protocol.structure import MAX_DEPTH as MAX_DEPTH
from protocol.structure import check_depth as check_depth
from protocol.structure import check_numbers, may_be_deep

MAX_EXPLANATION: Final = 256
"""Characters of an error's text: what a client sent is not sent back to it at full length."""

_T = TypeVar("_T")

_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _decoders(union: Any) -> dict[str, Any]:
    return {
        str(struct.__struct_config__.tag): msgspec.json.Decoder(struct)
        for struct in get_args(union)
    }


_envelope: Final = msgspec.json.Decoder(Message)
# By type, not one for the union: where a message has two types, both readings use the same one.
_client: Final[dict[str, msgspec.json.Decoder[ClientMessage]]] = _decoders(ClientMessage)
_server: Final[dict[str, msgspec.json.Decoder[ServerMessage]]] = _decoders(ServerMessage)
_type_pattern: Final = re.compile(TYPE_PATTERN)
encode: Final = msgspec.json.Encoder().encode
"""A message as UTF-8 bytes. Raises `TypeError` or `ValueError` for what JSON cannot express."""


def decode_envelope(data: bytes) -> Message:
    """Read what every message has: ``type``, ``id``, ``data``.

    Raises `Refusal`: ``not_utf8``, or ``bad_message``, whose text says what is wrong.
    """
    if not data.isascii():
        _check_utf8(data)
    if may_be_deep(data):
        check_depth(data)
    try:
        return _envelope.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("bad_message", _explain(error)) from None


def decode_client(data: bytes, envelope: Message | None = None) -> ClientMessage | Message:
    """Read what a client sends: a message of the protocol, or an application's `Message`.

    Raises `Refusal` as `decode_envelope`, and with ``invalid_payload`` where a message of the
    protocol has a field that does not fit.
    """
    envelope = envelope or decode_envelope(data)
    decoder = _client.get(envelope.type)
    return envelope if decoder is None else _decode_reserved(decoder, data)


def decode_auth_alias(data: bytes) -> Auth:
    """Read a first message of another ``type`` as if it were `auth`; fields that do not fit are
    left out, since they may mean something else there. What they say is in `decode_fields`.
    """
    fields = decode_fields(data)
    fields["type"] = "auth"
    for name in Auth.__struct_fields__:
        if name in fields and not _fits_auth(name, fields[name]):
            del fields[name]
    return msgspec.convert(fields, Auth)


def _fits_auth(name: str, value: Any) -> bool:
    try:
        msgspec.convert({"type": "auth", name: value}, Auth)
    except msgspec.ValidationError:
        return False
    return True


def decode_server(data: bytes) -> ServerMessage | Message:
    """Read what a server sends. Raises as `decode_client`."""
    envelope = decode_envelope(data)
    decoder = _server.get(envelope.type)
    return envelope if decoder is None else _decode_reserved(decoder, data)


def _decode_reserved(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def decode_fields(data: bytes) -> dict[str, Any]:
    """All fields of a message as plain JSON types. Raises `Refusal` with ``bad_message``."""
    check_numbers(data, "bad_message")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except _DECODE_ERRORS as error:
        raise Refusal("bad_message", _explain(error)) from None


def payload_decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for a handler's payload type: attrs class, Struct, dataclass, plain JSON types.

    Raises `TypeError` for a type that JSON cannot be decoded into.
    """
    if isinstance(msgspec.inspect.type_info(type_), msgspec.inspect.CustomType):
        raise TypeError(f"{type_!r} is no attrs class, Struct, dataclass or JSON type")
    return msgspec.json.Decoder(type_)


def decode_payload(decoder: msgspec.json.Decoder[_T], message: Message) -> _T:
    """An application message's ``data``; absent data reads as null.

    Raises `Refusal` with ``invalid_payload`` and the path of the field that does not fit. A type's
    own validation (``__post_init__``, attrs validators) may raise `ValueError` or `TypeError`;
    its text is the application's and is passed on.
    """
    data = b"null" if message.data is msgspec.UNSET else bytes(message.data)
    check_numbers(data, "invalid_payload")
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def is_type_name(name: str) -> bool:
    """Whether an application may give a message this ``type``."""
    return _type_pattern.fullmatch(name) is not None


def _check_utf8(data: bytes) -> None:
    """msgspec checks only the strings it converts, and what is passed on is not converted."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Refusal("not_utf8") from None


def _explain(error: Exception) -> str:
    """What is wrong and where. msgspec names types and paths, and repeats a value only where it
    is none of a few allowed ones; that value may be long.
    """
    if isinstance(error, RecursionError):
        return f"Nested deeper than {MAX_DEPTH} levels."
    if isinstance(error, UnicodeDecodeError):
        return "A string is not UTF-8."
    text = str(error)[:MAX_EXPLANATION]
    return text if text.endswith(".") else text + "."
