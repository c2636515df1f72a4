"""The types of fields that several messages have, and the protocol's constants."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Raw

SUBPROTOCOL: Final = "trioserver.v1"
"""The name offered in Sec-WebSocket-Protocol. A client that offers none is served as well."""

TYPE_PATTERN: Final = r"^[a-z0-9_.:-]{1,64}$"

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON implementation represents exactly (RFC 8259, section 6)."""

Id: TypeAlias = (
    Annotated[str, Meta(min_length=1, max_length=64)]
    | Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
)
"""Chosen by the sender of a request, repeated in every answer to it."""

Topic: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Topics: TypeAlias = Annotated[tuple[Topic, ...], Meta(min_length=1, max_length=100)]
HeartbeatMode: TypeAlias = Literal["frame", "message"]
HEARTBEAT_MODES: Final[tuple[HeartbeatMode, ...]] = get_args(HeartbeatMode)


def raw(data: Any) -> Raw:
    """Encode application data as JSON, for the field of a message.

    Raises `TypeError` or `ValueError` for data that JSON cannot express.
    """
    return data if isinstance(data, Raw) else Raw(msgspec.json.encode(data))
