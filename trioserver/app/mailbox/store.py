"""What the mailbox needs of a database: the messages, and how many were dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from trioserver.app.mailbox.message import StoredMessage

RETRY: Final = 5.0
"""Seconds until a database that failed is asked again."""


@attrs.frozen(kw_only=True)
class Bounds:
    """Limits for one user: messages, bytes, and seconds."""

    messages: int
    bytes: int
    age: float


@attrs.frozen(kw_only=True)
class Totals:
    """Messages, their bytes, and the number of users they are for, in a whole namespace."""

    messages: int
    bytes: int
    users: int


@attrs.frozen(kw_only=True)
class Page:
    """Some messages of a user, in order.

    ``last`` is the number of the last message that was looked at. ``dropped`` counts messages that
    were dropped and that the user has not been told of.
    """

    messages: list[StoredMessage]
    last: int
    is_last: bool
    dropped: int


@attrs.frozen(kw_only=True)
class Swept:
    """How many messages were deleted, and whether there is nothing left to delete."""

    messages: int
    is_last: bool


class Store(Protocol):
    """One namespace. Each method is one transaction, and raises `DatabaseUnavailableError`.

    ``now`` is the time in seconds since the Unix epoch; it says what is too old.
    """

    async def create(self) -> None:
        """Make the tables, or bring them up to date. Raises `SchemaTooNewError`."""

    async def add(self, message: StoredMessage, *, now: float) -> int:
        """Store a message so that it survives a crash; return how many older ones were dropped.

        A message with the same key is replaced, and does not count.
        """

    async def read(self, user: str, *, after: int, now: float) -> Page:
        """Return the next messages of a user that are not too old."""

    async def remove(self, ids: Sequence[str], *, user: str | None = None) -> None:
        """Delete messages; with ``user``, only those of this user."""

    async def withdraw(self, user: str, key: str) -> int:
        """Delete the user's message with this key; return how many there were."""

    async def totals(self) -> Totals:
        """Count all messages of the namespace."""

    async def count(self, user: str) -> int:
        """Count the messages of a user."""

    async def told_of_dropped(self, user: str, count: int) -> None:
        """Subtract ``count`` from the dropped messages that the user has not been told of."""

    async def sweep(self, now: float, rows: int) -> Swept:
        """Delete the oldest messages that are too old, and outdated counts of dropped messages.

        At most ``rows`` of each.
        """
