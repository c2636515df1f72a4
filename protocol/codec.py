"""Encodes and decodes messages, within limits: any input gives a message or a documented error."""

from __future__ import annotations

import math
import re
from typing import Any, Final, TypeVar, get_args

import msgspec
import msgspec.inspect

from protocol.fields import TYPE_PATTERN, Id
from protocol.messages import Auth, ClientMessage, Error, Message, ServerMessage
from protocol.refusals import Refusal
from protocol.structure import MAX_DEPTH, check_depth, check_numbers, may_be_deep

MAX_EXPLANATION: Final = 256
"""Characters of an explanation that may quote what a client sent."""

_MAX_ERROR_TEXT: Final = 1000
"""Characters of the message of an error. Some quote what was sent, which may be as large as any
message."""

_T = TypeVar("_T")

_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _decoders(union: Any) -> dict[str, Any]:
    return {
        str(struct.__struct_config__.tag): msgspec.json.Decoder(struct)
        for struct in get_args(union)
    }


_envelope: Final = msgspec.json.Decoder(Message)
# One decoder for each type, not one for the union: if a message has two `type` fields, the envelope
# and the message are decoded by the same one.
_client: Final[dict[str, msgspec.json.Decoder[ClientMessage]]] = _decoders(ClientMessage)
_server: Final[dict[str, msgspec.json.Decoder[ServerMessage]]] = _decoders(ServerMessage)
_type_pattern: Final = re.compile(TYPE_PATTERN)
encode: Final = msgspec.json.Encoder().encode
"""A message as UTF-8 bytes. Raises `TypeError` or `ValueError` for what JSON cannot express."""


def decode_envelope(data: bytes) -> Message:
    """Decode the fields that every message has: ``type``, ``id``, ``data``.

    Raises `Refusal` with ``not_utf8``, or with ``bad_message`` and a text that says what is wrong.
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
    """Decode a message from a client: one of the protocol, or an application's `Message`.

    Raises `Refusal` as `decode_envelope`, and with ``invalid_payload`` if a field of a message of
    the protocol has the wrong type.
    """
    envelope = envelope or decode_envelope(data)
    decoder = _client.get(envelope.type)
    return envelope if decoder is None else _decode_reserved(decoder, data)


def decode_auth_alias(data: bytes) -> Auth:
    """Decode a first message of another ``type`` as an `auth`.

    Fields of the wrong type are left out, because they may mean something else there.
    `decode_fields` returns them.
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
    """Decode a message from a server. Raises as `decode_client`."""
    envelope = decode_envelope(data)
    decoder = _server.get(envelope.type)
    return envelope if decoder is None else _decode_reserved(decoder, data)


def _decode_reserved(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def decode_fields(data: bytes) -> dict[str, Any]:
    """Decode all fields of a message as plain JSON types. Raises `Refusal` with ``bad_message``."""
    check_numbers(data, "bad_message")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except _DECODE_ERRORS as error:
        raise Refusal("bad_message", _explain(error)) from None


def payload_decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """Make a decoder for a handler's payload type.

    Raises `TypeError` for a type that JSON cannot be decoded into.
    """
    if isinstance(msgspec.inspect.type_info(type_), msgspec.inspect.CustomType):
        raise TypeError(
            f"{type_!r} is not a payload type: use an attrs class, a Struct, a dataclass or plain "
            "JSON types"
        )
    return msgspec.json.Decoder(type_)


def decode_payload(decoder: msgspec.json.Decoder[_T], message: Message) -> _T:
    """Decode the ``data`` of an application's message; absent data is decoded as null.

    Raises `Refusal` with ``invalid_payload`` and the path of the invalid field. The text of a
    `ValueError` or `TypeError` that the type itself raises (``__post_init__``, attrs validators) is
    included.
    """
    data = b"null" if message.data is msgspec.UNSET else bytes(message.data)
    check_numbers(data, "invalid_payload")
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise Refusal("invalid_payload", _explain(error)) from None


def encode_error(refusal: Refusal, id: Id | None, *, fatal: bool) -> bytes:
    """Encode an `error` message. Long texts are cut."""
    after = refusal.retry_after
    return encode(
        Error(
            code=refusal.code,
            message=refusal.message[:_MAX_ERROR_TEXT],
            retry=refusal.retry,
            fatal=fatal,
            id=id,
            # Rounded up, so that a client that waits for this long is not too early. The 1e-6
            # ignores errors of floating-point arithmetic.
            retry_after_ms=None if after is None else math.ceil(after * 1000 - 1e-6),
        )
    )


def is_type_name(name: str) -> bool:
    """Whether this is a valid ``type`` of a message."""
    return _type_pattern.fullmatch(name) is not None


def _check_utf8(data: bytes) -> None:
    """Raise `Refusal` for invalid UTF-8. msgspec checks only the strings that it converts."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Refusal("not_utf8") from None


def _explain(error: Exception) -> str:
    """Say what is wrong and where.

    msgspec names types and paths. It quotes a value only if that is not one of a few allowed ones;
    the value may be long.
    """
    if isinstance(error, RecursionError):
        return f"The message is nested deeper than {MAX_DEPTH} levels."
    if isinstance(error, UnicodeDecodeError):
        return "A string is not valid UTF-8."
    text = str(error)[:MAX_EXPLANATION]
    return text if text.endswith(".") else text + "."
