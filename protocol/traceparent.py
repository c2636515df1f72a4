"""Validates a ``traceparent``: https://www.w3.org/TR/trace-context/, section 3.2.2."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from protocol.messages import Message

TRACEPARENT_PATTERN: Final = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

_MAX_BYTES: Final = 64
_pattern: Final = re.compile(TRACEPARENT_PATTERN)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


def traceparent_of(message: Message) -> str | None:
    """The ``traceparent`` of a message; None if there is none, or if it is malformed.

    A malformed one is ignored (section 2.3), so that a broken tracer does not break requests.
    """
    given = message.traceparent
    if given is msgspec.UNSET or len(memoryview(given)) > _MAX_BYTES:
        return None
    try:
        text = msgspec.json.decode(given, type=str)
    except msgspec.MsgspecError:
        return None
    if _pattern.fullmatch(text) is None:
        return None
    version, trace, span, _ = text.split("-")
    return None if version == "ff" or trace == _NO_TRACE or span == _NO_SPAN else text
