"""Conversations, their members and their messages, in a database."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

import attrs
import msgspec
import sqlalchemy as sa

from trioserver import Database, DatabaseUnavailableError, Refusal

MAX_MEMBERS: Final = 20
"""Maximum members of a conversation, including its owner. Each gets every message."""

metadata: Final = sa.MetaData()

conversations: Final = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
)

members: Final = sa.Table(
    "members",
    metadata,
    sa.Column("conversation_id", sa.ForeignKey("conversations.id"), primary_key=True),
    sa.Column("user_id", sa.String(64), primary_key=True),
)

messages: Final = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("conversation_id", sa.ForeignKey("conversations.id"), nullable=False, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

T = TypeVar("T")


class Page(msgspec.Struct):
    """The payload of ``history``: the last ``limit`` messages before message ``before``."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    before: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None  # what SQL can hold


@attrs.frozen
class Store:
    """What was said, and to whom, in the database. Each method is one transaction.

    Raises `Refusal` with ``unavailable`` while the database does not answer.
    """

    database: Database

    async def create(self, seed: Mapping[str, list[str]]) -> None:
        """Create the tables, and the conversations of each owner, if they do not exist."""
        await self.database.run(_create(seed))

    async def add(self, conversation_id: str, role: str, by: str, text: str) -> int:
        """Store a message and return its id. After that it survives a crash."""
        row: dict[str, Any] = {"conversation_id": conversation_id, "role": role, "by": by}
        row |= {"text": text, "at": time.time()}

        def insert(connection: sa.Connection) -> int:
            key = connection.execute(messages.insert().values(row)).inserted_primary_key
            assert key is not None
            return int(key[0])

        return await answered(self.database.run(insert))

    async def page(self, conversation_id: str, page: Page) -> list[dict[str, Any]]:
        """Return the messages of the page, oldest first."""
        query = sa.select(messages).where(messages.c.conversation_id == conversation_id)
        if page.before is not None:
            query = query.where(messages.c.id < page.before)
        query = query.order_by(messages.c.id.desc()).limit(page.limit)
        read = self.database.read(lambda connection: connection.execute(query).all())
        return [
            {"message_id": row.id, "role": row.role, "by": row.by, "text": row.text, "at": row.at}
            for row in reversed(await answered(read))
        ]

    async def search(self, conversation_id: str, words: set[str]) -> list[str]:
        """Return up to three earlier messages of the user that share a word."""
        said = await self.page(conversation_id, Page(limit=200))
        mine = [entry["text"] for entry in said if entry["role"] == "user"]
        return [text for text in mine if words & words_of(text)][-3:]

    async def members(self, conversation_id: str) -> set[str]:
        """Return the members of the conversation, including its owner."""
        query = sa.select(members.c.user_id).where(members.c.conversation_id == conversation_id)
        return set(await answered(self.database.read(lambda db: db.scalars(query).all())))

    async def knows(self, user: str) -> bool:
        """Return whether the user has a conversation."""
        query = sa.select(conversations.c.id).where(conversations.c.user_id == user).limit(1)
        found = self.database.read(lambda connection: connection.scalar(query))
        return await answered(found) is not None

    async def check_owner(self, conversation_id: str, user: str) -> None:
        """Raise `Refusal` unless the user is the owner."""
        await answered(self.database.read(lambda db: _check_owner(db, conversation_id, user)))

    async def share(self, conversation_id: str, owner: str, user: str) -> bool:
        """Add a member; return False if they are one. Raises `Refusal` unless by the owner."""

        def share(db: sa.Connection) -> bool:
            _check_owner(db, conversation_id, owner)
            own = sa.select(members.c.user_id).where(members.c.conversation_id == conversation_id)
            known = set(db.scalars(own))
            if user not in known and len(known) >= MAX_MEMBERS:
                message = f"A conversation has at most {MAX_MEMBERS} members."
                raise Refusal("too_many_members", message)
            if user not in known:
                db.execute(members.insert().values(conversation_id=conversation_id, user_id=user))
            return user not in known

        return await answered(self.database.run(share))

    async def unshare(self, conversation_id: str, owner: str, user: str) -> None:
        """Remove a member. Raises `Refusal` unless by the owner."""

        def unshare(db: sa.Connection) -> None:
            _check_owner(db, conversation_id, owner)
            its = members.c.conversation_id == conversation_id
            db.execute(members.delete().where(its & (members.c.user_id == user)))

        await answered(self.database.run(unshare))


def words_of(text: str) -> set[str]:
    """Return the longer words, which roughly are those that carry meaning."""
    return {word for word in text.lower().replace("?", " ").split() if len(word) > 3}


async def answered(call: Awaitable[T]) -> T:
    """Answer ``unavailable`` if the database does not."""
    try:
        return await call
    except DatabaseUnavailableError:
        raise Refusal("unavailable") from None


def _check_owner(db: sa.Connection, conversation_id: str, user: str) -> None:
    query = sa.select(conversations.c.user_id).where(conversations.c.id == conversation_id)
    if db.scalar(query) != user:
        raise Refusal("forbidden", "Only the owner of a conversation may share it.")


def _create(seed: Mapping[str, list[str]]) -> Callable[[sa.Connection], None]:
    """Create the tables and the conversations, if they do not exist."""
    rows = [{"id": id, "user_id": user} for user, ids in seed.items() for id in ids]

    def create(connection: sa.Connection) -> None:
        metadata.create_all(connection)
        known = set(connection.scalars(sa.select(conversations.c.id)))
        missing = [row for row in rows if row["id"] not in known]
        if missing:
            connection.execute(conversations.insert(), missing)
            owners = [{"conversation_id": row["id"], "user_id": row["user_id"]} for row in missing]
            connection.execute(members.insert(), owners)

    return create
