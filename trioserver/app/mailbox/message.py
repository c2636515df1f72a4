"""A message for a user, as it is stored and as it is sent."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

import attrs
from msgspec import UNSET, Raw

from protocol import codec, raw
from protocol.messages import Message
from protocol.structure import check_depth
from trioserver.app.handlers import check_type

MAX_USER: Final = 255
"""Characters of a user's id. An index of PostgreSQL takes no key longer than some 2,700 bytes."""

MAX_KEY: Final = 128
"""Characters."""

OVERHEAD: Final = 256
"""Bytes that count for a message in addition to its content, so that empty ones are bounded too."""

_IMPOSSIBLE: Final = re.compile(r"[\x00\ud800-\udfff]")
"""PostgreSQL raises for a NUL, every driver for half of a surrogate pair."""


@attrs.frozen(kw_only=True)
class StoredMessage:
    """A message for a user.

    - ``data``: JSON, or None for a message without data.
    - ``resource``: deliver only to connections whose path has these parameters; None means to all.
    - ``at``: when it was sent, in seconds since the Unix epoch.
    - ``key``: only the last of the user's messages with the same key is kept.
    - ``number``: its place in the order of sending, which the database gives; 0 before that.
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
        """The bytes that count towards the limits."""
        return OVERHEAD + len((self.data or "").encode())

    @property
    def text(self) -> bytes:
        """The message, encoded."""
        data: Any = UNSET if self.data is None else Raw(self.data.encode())
        return codec.encode(Message(type=self.type, id=self.id, data=data))

    def is_for(self, resource: Mapping[str, str]) -> bool:
        """Whether it may be delivered to a connection to this resource."""
        return self.resource is None or self.resource.items() <= resource.items()


def new_message(
    user: str,
    type: str,
    data: Any,
    resource: Mapping[str, str] | None,
    at: float,
    key: str | None = None,
) -> StoredMessage:
    """Make a message. Raises `ValueError` or `TypeError` for one that cannot be sent or stored."""
    if not is_user(user):
        raise ValueError(f"invalid user's id: it must have 1 to {MAX_USER} characters, and no NUL")
    check_type(type)
    if type.startswith("mailbox."):
        raise ValueError(f"invalid message type {type!r}: it is reserved for the mailbox")
    if key is not None and not is_key(key):
        raise ValueError(f"invalid key: it must have 1 to {MAX_KEY} characters, and no NUL")
    text = None if data is UNSET else bytes(raw(data)).decode()
    check_depth(b"[" + (text or "").encode() + b"]")
    return StoredMessage(
        id=secrets.token_hex(16),
        user=user,
        type=type,
        data=text,
        resource=None if resource is None else {**resource},
        at=at,
        key=key,
    )


def is_key(key: str) -> bool:
    """Whether ``key`` can be the key of a message."""
    return 0 < len(key) <= MAX_KEY and not _IMPOSSIBLE.search(key)


def is_user(user: str) -> bool:
    """Whether messages for a user with this id can be stored."""
    return 0 < len(user) <= MAX_USER and not _IMPOSSIBLE.search(user)


def resource_text(resource: Mapping[str, str] | None) -> str | None:
    """Encode path parameters for the database, in ASCII."""
    return None if resource is None else json.dumps(dict(resource), sort_keys=True)


def resource_of(text: str | None) -> dict[str, str] | None:
    """Decode path parameters from the database."""
    return None if text is None else dict(json.loads(text))
