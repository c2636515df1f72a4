"""A message for a user, and what it looks like on the wire."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

import attrs
from msgspec import UNSET, Raw

from protocol import codec, raw
from protocol.messages import RESERVED_TYPES, Message
from protocol.structure import check_depth

MAX_USER: Final = 255
"""Characters of a user's id. An index of PostgreSQL takes no key longer than some 2,700 bytes."""

MAX_KEY: Final = 128
"""Characters."""

OVERHEAD: Final = 256
"""Bytes that a message costs beside its content, roughly, so that empty ones are bounded too."""

_IMPOSSIBLE: Final = re.compile(r"[\x00\ud800-\udfff]")
"""PostgreSQL raises for a NUL, every driver for half of a surrogate pair."""


@attrs.frozen(kw_only=True)
class Letter:
    """``data`` is JSON, None where there is none; ``at`` is in seconds since the Unix epoch.

    ``resource``: only for connections whose path has these parameters; None for all.
    ``key``: of the user's letters with the same key only the last is kept.
    ``number`` is the database's, in the order of sending; 0 before it is stored.
    """

    id: str
    user: str
    type: str
    data: str | None = attrs.field(repr=False)
    resource: Mapping[str, str] | None
    at: float
    key: str | None = None
    number: int = 0

    @property
    def size(self) -> int:
        """Bytes that it is counted with."""
        return OVERHEAD + len((self.data or "").encode())

    @property
    def text(self) -> bytes:
        """The message, encoded."""
        data: Any = UNSET if self.data is None else Raw(self.data.encode())
        return codec.encode(Message(type=self.type, id=self.id, data=data))

    def is_for(self, resource: Mapping[str, str]) -> bool:
        """Whether a connection to this resource is one that it may be delivered to."""
        return self.resource is None or self.resource.items() <= resource.items()


def new_letter(
    user: str,
    type: str,
    data: Any,
    resource: Mapping[str, str] | None,
    at: float,
    key: str | None = None,
) -> Letter:
    """Raises `ValueError` or `TypeError` for what cannot be sent, or not be stored."""
    if not is_user(user):
        raise ValueError(f"a user's id is 1 to {MAX_USER} characters, without a NUL")
    if not codec.is_type_name(type):
        raise ValueError(f"{type!r} is no message type: 1-64 of a-z 0-9 _ . : - are")
    if type in RESERVED_TYPES or type.startswith("mailbox."):
        raise ValueError(f"{type!r} is a message type of the protocol's own; choose another")
    if key is not None and not is_key(key):
        raise ValueError(f"a message's key is 1 to {MAX_KEY} characters, without a NUL")
    text = None if data is UNSET else bytes(raw(data)).decode()
    check_depth(b"[" + (text or "").encode() + b"]")
    return Letter(
        id=secrets.token_hex(16),
        user=user,
        type=type,
        data=text,
        resource=None if resource is None else {**resource},
        at=at,
        key=key,
    )


def is_key(key: str) -> bool:
    """Whether it can be the key of a letter."""
    return 0 < len(key) <= MAX_KEY and not _IMPOSSIBLE.search(key)


def is_user(user: str) -> bool:
    """Whether there can be anything for this user at all."""
    return 0 < len(user) <= MAX_USER and not _IMPOSSIBLE.search(user)


def resource_text(resource: Mapping[str, str] | None) -> str | None:
    """For the database. ASCII, whatever is in it."""
    return None if resource is None else json.dumps(dict(resource), sort_keys=True)


def resource_of(text: str | None) -> dict[str, str] | None:
    """From the database."""
    return None if text is None else dict(json.loads(text))
