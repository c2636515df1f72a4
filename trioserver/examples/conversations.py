"""Chat with streamed replies and streamed tool calls: ``/ws/conversations/{conversation_id}``.

The owner of a conversation is looked up in the database; one that is not there and one that is
somebody else's get the same answer. ``message`` is stored, then acknowledged; ``ask`` is answered
as a stream, which the client can cancel; ``history`` gives what was said before.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import attrs
import msgspec
import sqlalchemy as sa
import trio

from trioserver import Application, Connection
from trioserver.auth import Authenticator
from trioserver.auth.ownership import SQLOwner
from trioserver.storage import Database

PATH: Final = "/ws/conversations/{conversation_id}"

WORD_PAUSE: Final = 0.02  # seconds; a language model does not say everything at once either
SAVE_TIMEOUT: Final = 2.0  # seconds; for what was said of an answer that was cut short

metadata: Final = sa.MetaData()

conversations: Final = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
)

messages: Final = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("conversation_id", sa.ForeignKey("conversations.id"), nullable=False, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]


class Said(msgspec.Struct):
    """The payload of ``message`` and ``ask``."""

    text: Text


class Page(msgspec.Struct):
    """The payload of ``history``: the last ``limit`` messages before message ``before``."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    before: int | None = None


@attrs.frozen
class Store:
    """What was said, in the database. Each method is one transaction."""

    database: Database

    async def add(self, conversation_id: str, role: str, text: str) -> int:
        """Store a message and return its id; when this returns, it survives a crash."""
        row = {"conversation_id": conversation_id, "role": role, "text": text, "at": time.time()}

        def insert(connection: sa.Connection) -> int:
            key = connection.execute(messages.insert().values(row)).inserted_primary_key
            assert key is not None
            return int(key[0])

        return await self.database.run(insert)

    async def page(self, conversation_id: str, page: Page) -> list[dict[str, Any]]:
        """The newest messages that the page asks for, oldest first."""
        query = sa.select(messages).where(messages.c.conversation_id == conversation_id)
        if page.before is not None:
            query = query.where(messages.c.id < page.before)
        query = query.order_by(messages.c.id.desc()).limit(page.limit)
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [
            {"message_id": row.id, "role": row.role, "text": row.text, "at": row.at}
            for row in reversed(rows)
        ]

    async def search(self, conversation_id: str, words: set[str]) -> list[str]:
        """Up to three earlier messages of the user that share a word."""
        said = await self.page(conversation_id, Page(limit=200))
        mine = [entry["text"] for entry in said if entry["role"] == "user"]
        return [text for text in mine if words & _words(text)][-3:]


def make(
    database_url: str, *, auth: Authenticator, seed: Mapping[str, list[str]] | None = None
) -> Application:
    """The application. ``seed``: conversations to have, by the user they belong to."""
    database = Database(database_url)

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        async with database:
            await database.run(_create(seed or {}))
            application.state["store"] = Store(database)
            yield

    application = Application(auth=auth, lifespan=lifespan)
    application.add_health_check("database", database.check_health)
    owner = SQLOwner(
        database, table="conversations", denied="Conversation not found or access denied"
    )
    route = application.route(PATH, owner=owner, auth_aliases=["initial"])
    route.on("message")(message)
    route.on("ask")(ask)
    route.on("history")(history)
    return application


async def message(connection: Connection, said: Said) -> dict[str, int]:
    """Store what the user says, then acknowledge it."""
    id = await _store(connection).add(_conversation(connection), "user", said.text)
    return {"message_id": id}


async def history(connection: Connection, page: Page | None) -> dict[str, Any]:
    """What was said before, oldest first."""
    said = await _store(connection).page(_conversation(connection), page or Page())
    return {"messages": said}


async def ask(connection: Connection, said: Said) -> AsyncIterator[dict[str, Any]]:
    """Answer as a stream: a call of a tool, its result, then text, word by word."""
    store, conversation = _store(connection), _conversation(connection)
    words = _words(said.text)
    yield {"kind": "tool_call", "name": "search_history", "arguments": {"words": sorted(words)}}
    found = await store.search(conversation, words)
    yield {"kind": "tool_result", "name": "search_history", "result": found}
    await store.add(conversation, "user", said.text)
    spoken = ""
    try:
        for word in _answer(said.text, found).split(" "):
            await trio.sleep(WORD_PAUSE)
            spoken += word + " "
            yield {"kind": "text", "text": word + " "}
    finally:
        # Also when the client cancels or leaves: what was said has been said.
        with trio.move_on_after(SAVE_TIMEOUT, shield=True):
            await store.add(conversation, "assistant", spoken.strip())


def _answer(question: str, found: list[str]) -> str:
    if not found:
        return f"You have not mentioned that before. Tell me more about: {question}"
    quotes = "; ".join(f"“{text}”" for text in found)
    return f"You have come to this before, when you said: {quotes}. Now you ask: {question}"


def _words(text: str) -> set[str]:
    """The words that carry meaning, roughly: the longer ones."""
    return {word for word in text.lower().replace("?", " ").split() if len(word) > 3}


def _store(connection: Connection) -> Store:
    store = connection.application.state["store"]
    assert isinstance(store, Store)
    return store


def _conversation(connection: Connection) -> str:
    return connection.resource["conversation_id"]


def _create(seed: Mapping[str, list[str]]) -> Callable[[sa.Connection], None]:
    """Makes the tables and the conversations, where they are not there yet."""
    rows = [{"id": id, "user_id": user} for user, ids in seed.items() for id in ids]

    def create(connection: sa.Connection) -> None:
        metadata.create_all(connection)
        known = set(connection.scalars(sa.select(conversations.c.id)))
        missing = [row for row in rows if row["id"] not in known]
        if missing:
            connection.execute(conversations.insert(), missing)

    return create
