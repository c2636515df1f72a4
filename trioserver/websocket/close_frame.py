"""The content of a Close frame; RFC 6455, sections 5.5.1 and 7.4."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs


class CloseCode(IntEnum):
    """The status codes that this package names; section 7.4.1."""

    PROTOCOL_ERROR = 1002
    NO_STATUS_RECEIVED = 1005
    """Never sent: it is recorded for a Close frame without a code."""
    ABNORMAL_CLOSURE = 1006
    """Never sent: it is recorded where the transport ended without a well-formed Close frame."""
    INVALID_PAYLOAD = 1007


_ALLOWED: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1014), *range(3000, 5000)})
"""Codes that a peer may send: section 7.4.2, and IANA's list as far as wsproto knows it."""


@attrs.frozen
class CloseFrame:
    """Code and reason with which the peer closed. ``code`` may be one that is never sent."""

    code: int
    reason: str


ABNORMAL_CLOSE: Final = CloseFrame(CloseCode.ABNORMAL_CLOSURE, "")
"""What is recorded where no Close frame came, or a malformed one."""


def parse_close(payload: bytes) -> tuple[CloseFrame, bytes]:
    """Return what the peer's Close frame says, and the payload of the Close frame to answer with.

    A malformed one counts as `ABNORMAL_CLOSE`; the answer says what is wrong.
    """
    if not payload:
        return CloseFrame(CloseCode.NO_STATUS_RECEIVED, ""), b""
    code = int.from_bytes(payload[:2], "big")
    if code not in _ALLOWED:
        return ABNORMAL_CLOSE, CloseCode.PROTOCOL_ERROR.to_bytes(2, "big")
    try:
        return CloseFrame(code, payload[2:].decode()), payload
    except UnicodeDecodeError:
        return ABNORMAL_CLOSE, CloseCode.INVALID_PAYLOAD.to_bytes(2, "big")
