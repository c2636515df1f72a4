"""Decodes only those fields of the server's messages that a simulated client looks at."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from protocol.messages import Error

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError)


class ServerMessage(msgspec.Struct):
    """A message of the server. Other fields are not decoded."""

    type: str
    id: int | str | None = None
    code: str = ""
    fatal: bool = False
    topic: str = ""
    offset: int = 0
    data: Raw = Raw(b"null")


decode: Final = msgspec.json.Decoder(ServerMessage).decode
"""Decode a message. Raises `DECODE_ERRORS`. It is called for each message, without a wrapper."""


def decode_error(text: bytes) -> Error | None:
    """Decode all fields of an `error`; None if it is not valid."""
    try:
        return msgspec.json.decode(text, type=Error)
    except DECODE_ERRORS:
        return None
