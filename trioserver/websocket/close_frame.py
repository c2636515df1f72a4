"""How a peer has closed: its Close frame, judged; RFC 6455, sections 5.5.1 and 7.4."""

from __future__ import annotations

from typing import Final

import attrs

_NO_STATUS: Final = 1005
ABNORMAL: Final = 1006
"""RFC 6455, section 7.4.1: what is recorded where no Close frame, or none with a code, came."""

_PROTOCOL_ERROR: Final = 1002
_NOT_UTF8: Final = 1007

_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1014), *range(3000, 5000)})
"""Those that a peer may send; section 7.4.2 and IANA's list, as far as wsproto knows it."""


@attrs.frozen
class PeerClose:
    """How the peer ended it: code and reason of its Close frame, 1006 where none came."""

    code: int
    reason: str


def judge_close(payload: bytes) -> tuple[PeerClose, bytes]:
    """How the peer has closed, and the payload of what it gets for an answer; section 5.5.1.

    A malformed one counts as an abnormal end.
    """
    if not payload:
        return PeerClose(_NO_STATUS, ""), b""
    code = int.from_bytes(payload[:2], "big")
    if code not in _CLOSE_CODES:
        return PeerClose(ABNORMAL, ""), _PROTOCOL_ERROR.to_bytes(2, "big")
    try:
        return PeerClose(code, payload[2:].decode()), payload
    except UnicodeDecodeError:
        return PeerClose(ABNORMAL, ""), _NOT_UTF8.to_bytes(2, "big")
