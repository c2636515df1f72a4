"""Whose texts there are, and their passages, found by SQLite's full-text search (FTS5)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from trioserver import Refusal
from trioserver.storage import Database

MAX_TEXTS: Final = 100
"""Of one user."""

MAX_PASSAGES: Final = 10_000
"""Of one text. They are stored in one transaction, which takes a fifth of a second."""

MAX_WORDS: Final = 32
"""Of a question, that are looked for."""

_metadata: Final = sa.MetaData()

_texts: Final = sa.Table(
    "study_texts",
    _metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("user_id", sa.String(255), nullable=False, index=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("passages", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

_passages: Final = sa.Table(
    "study_passages",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text_id", sa.ForeignKey("study_texts.id"), nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

_INDEX: Final = (
    # "porter" finds "leaves" for "leaf"; the text itself stays in its own table.
    """CREATE VIRTUAL TABLE IF NOT EXISTS study_index USING fts5(
        text, content='study_passages', content_rowid='id',
        tokenize='porter unicode61 remove_diacritics 2')""",
    """CREATE TRIGGER IF NOT EXISTS study_added AFTER INSERT ON study_passages BEGIN
        INSERT INTO study_index(rowid, text) VALUES (new.id, new.text); END""",
    """CREATE TRIGGER IF NOT EXISTS study_removed AFTER DELETE ON study_passages BEGIN
        INSERT INTO study_index(study_index, rowid, text)
        VALUES ('delete', old.id, old.text); END""",
)

_FIND: Final = """
    SELECT t.id AS text_id, t.name, p.number, p.text
    FROM study_index
    JOIN study_passages AS p ON p.id = study_index.rowid
    JOIN study_texts AS t ON t.id = p.text_id
    WHERE study_index MATCH :query AND t.user_id = :user_id
    ORDER BY bm25(study_index), p.id LIMIT :limit"""

_WORD: Final = re.compile(r"\w+")

_STOP_WORDS: Final = (
    "a about an and are as at be been but by can could did do does explain for from had has have "
    "he her his how i if in into is it its me my of on or our she should so tell than that the "
    "their them then there these they this to us was we were what when where which who whom whose "
    "why will with would you your"
)
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
"""Of English: they are in every passage."""


@attrs.frozen
class Passage:
    """A part of a user's text; ``number`` counts from 1 in the text ``name``."""

    text_id: str
    name: str
    number: int
    text: str


@attrs.frozen
class Library:
    """The texts of all users, each of whom sees only their own. One transaction each."""

    database: Database

    async def create(self) -> None:
        """Make the tables, where they are not there yet."""

        def create(connection: sa.Connection) -> None:
            _metadata.create_all(connection)
            for statement in _INDEX:
                connection.exec_driver_sql(statement)

        await self.database.run(create)

    async def add(self, user_id: str, name: str, passages: Sequence[str]) -> str:
        """Store a text, and return its id; when this returns, it survives a crash.

        Raises `Refusal` where the user has as many as there may be.
        """
        if len(passages) > MAX_PASSAGES:
            raise Refusal("unreadable", "There is too much in the file. Send it in parts.")
        text_id = secrets.token_hex(16)
        text: dict[str, Any] = {"id": text_id, "user_id": user_id, "name": name}
        text |= {"passages": len(passages), "at": time.time()}
        rows = [
            {"text_id": text_id, "number": number, "text": passage}
            for number, passage in enumerate(passages, 1)
        ]

        def add(connection: sa.Connection) -> None:
            own = sa.select(sa.func.count()).where(_texts.c.user_id == user_id)
            if (connection.scalar(own) or 0) >= MAX_TEXTS:
                raise Refusal("too_many_texts", f"You have {MAX_TEXTS} texts. Delete one first.")
            connection.execute(_texts.insert().values(text))
            connection.execute(_passages.insert(), rows)

        await self.database.run(add)
        return text_id

    async def texts(self, user_id: str) -> list[dict[str, Any]]:
        """The user's texts, the newest first."""
        query = sa.select(_texts).where(_texts.c.user_id == user_id).order_by(_texts.c.at.desc())
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [
            {"text_id": row.id, "name": row.name, "passages": row.passages, "at": row.at}
            for row in rows
        ]

    async def delete(self, user_id: str, text_id: str) -> bool:
        """Whether there was such a text of this user's; there is none now."""

        def delete(connection: sa.Connection) -> bool:
            own = (_texts.c.id == text_id) & (_texts.c.user_id == user_id)
            if connection.scalar(sa.select(_texts.c.id).where(own)) is None:
                return False
            connection.execute(_passages.delete().where(_passages.c.text_id == text_id))
            connection.execute(_texts.delete().where(own))
            return True

        return await self.database.run(delete)

    async def find(self, user_id: str, question: str, limit: int) -> list[Passage]:
        """The passages of the user's own texts that fit the question best, best first."""
        words = key_words(question)
        if not words:
            return []
        # In quotes a word is a word, and nothing of FTS5's query language.
        values = {"query": " OR ".join(f'"{word}"' for word in words)}
        rows = await self.database.read(
            lambda connection: connection.execute(
                sa.text(_FIND), {**values, "user_id": user_id, "limit": limit}
            ).all()
        )
        return [Passage(row.text_id, row.name, row.number, row.text) for row in rows]


def key_words(question: str) -> list[str]:
    """The words that carry meaning, in lower case; if there are none, all of them."""
    words = list(dict.fromkeys(_WORD.findall(question.lower())))
    return ([word for word in words if word not in STOP_WORDS] or words)[:MAX_WORDS]
