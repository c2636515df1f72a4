"""The texts of each user, and their passages, found by SQLite's full-text search (FTS5).

All users share one index, but no word of it: each word is stored behind a prefix that is its
owner's. So the time of a search depends on how often the user's own texts have the word. What is
found is ranked here, by how rare its words are among the user's own passages, because FTS5's bm25
counts everybody's. A full-text table for each user would do the same, but an SQLite file with 1,500
of them takes 0.4 s to open, and four times as long with twice as many.
"""

from __future__ import annotations

import math
import re
import secrets
import time
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from trioserver import Database, MigrationStep, Refusal

MAX_TEXTS: Final = 100
"""Maximum texts of one user."""

MAX_PASSAGES: Final = 10_000
"""Maximum passages of one text. One transaction stores them, in a fifth of a second."""

MAX_WORDS: Final = 32
"""Maximum words of a question that are searched for."""

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

_owners: Final = sa.Table(
    "study_owners",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # what the prefix is made of
    sa.Column("user_id", sa.String(255), nullable=False, unique=True),
    sqlite_autoincrement=True,  # no number comes twice
)

_INDEX: Final = (
    # "porter" finds "shine" for "shining". Passages and the lengths of texts are not kept in it.
    """CREATE VIRTUAL TABLE IF NOT EXISTS study_words USING fts5(
        text, content='', columnsize=0, tokenize='porter unicode61 remove_diacritics 2')"""
)

_ADD: Final = sa.text("INSERT INTO study_words (rowid, text) VALUES (:id, :words)")

_REMOVE: Final = sa.text(
    "INSERT INTO study_words (study_words, rowid, text) VALUES ('delete', :id, :words)"
)

_COUNT: Final = sa.text("SELECT count(*) FROM study_words WHERE study_words MATCH :word")

_CONSONANTS: Final = "bcdfghjklmnpqrstvwx"
"""Of prefixes. The stemmer counts vowels: with these before it, a word is stemmed as without."""

_END: Final = "z"

_WORD: Final = re.compile(r"[^\W_]+")
"""What FTS5 takes for a word too, so that no part of one is left without its prefix."""

_STOP_WORDS: Final = (
    "a about an and are as at be been but by can could did do does explain for from had has have "
    "he her his how i if in into is it its me my of on or our she should so tell than that the "
    "their them then there these they this to us was we were what when where which who whom whose "
    "why will with would you your"
)
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
"""English words that are in every passage."""


@attrs.frozen
class Passage:
    """A part of a user's text; ``number`` counts from 1 in the text ``name``."""

    text_id: str
    name: str
    number: int
    text: str


@attrs.frozen
class Library:
    """The texts of all users. A user sees only their own. Each method is one transaction."""

    database: Database

    async def add(self, user_id: str, name: str, passages: Sequence[str]) -> str:
        """Store a text, and return its id; when this returns, it survives a crash.

        Raises `Refusal` where the user has as many as there may be.
        """
        if len(passages) > MAX_PASSAGES:
            raise Refusal("unreadable", "The file has too much text. Send it in parts.")
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
            _index(connection, _ADD, text_id, _prefix_of(connection, user_id, new=True))

        await self.database.run(add)
        return text_id

    async def texts(self, user_id: str) -> list[dict[str, Any]]:
        """Return the user's texts, newest first."""
        query = sa.select(_texts).where(_texts.c.user_id == user_id).order_by(_texts.c.at.desc())
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [
            {"text_id": row.id, "name": row.name, "passages": row.passages, "at": row.at}
            for row in rows
        ]

    async def delete(self, user_id: str, text_id: str) -> bool:
        """Delete a text; return False if the user has no such text."""

        def delete(connection: sa.Connection) -> bool:
            own = (_texts.c.id == text_id) & (_texts.c.user_id == user_id)
            if connection.scalar(sa.select(_texts.c.id).where(own)) is None:
                return False
            _index(connection, _REMOVE, text_id, _prefix_of(connection, user_id))
            connection.execute(_passages.delete().where(_passages.c.text_id == text_id))
            connection.execute(_texts.delete().where(own))
            return True

        return await self.database.run(delete)

    async def find(self, user_id: str, question: str, limit: int) -> list[Passage]:
        """Return the passages of the user's own texts that match the question best, best first."""
        words = key_words(question)
        if not words:
            return []
        rows = await self.database.read(lambda connection: _find(connection, user_id, words, limit))
        return [Passage(row.text_id, row.name, row.number, row.text) for row in rows]


def _prefix_of(connection: sa.Connection, user_id: str, *, new: bool = False) -> str:
    """What stands before each word of this user's. Empty for a user without any, unless ``new``."""
    query = sa.select(_owners.c.number).where(_owners.c.user_id == user_id)
    number = connection.scalar(query)
    if number is None and new:
        connection.execute(_owners.insert().values(user_id=user_id))
        number = connection.scalar(query)
    letters = ""
    while number:
        number, digit = divmod(number, len(_CONSONANTS))
        letters += _CONSONANTS[digit]
    return letters + _END if letters else ""


def _prefixed(prefix: str, text: str) -> str:
    """Return the words of a text as they are indexed."""
    words = _WORD.findall(unicodedata.normalize("NFC", text))
    return " ".join([prefix + word for word in words])


def _index(connection: sa.Connection, how: sa.TextClause, text_id: str, prefix: str) -> None:
    """Add the words of a text to the index, or remove them."""
    query = sa.select(_passages.c.id, _passages.c.text).where(_passages.c.text_id == text_id)
    rows = connection.execute(query).all()
    words = [{"id": row.id, "words": _prefixed(prefix, row.text)} for row in rows]
    if words:
        connection.execute(how, words)


def _find(
    connection: sa.Connection, user_id: str, words: Sequence[str], limit: int
) -> Sequence[sa.Row[Any]]:
    prefix = _prefix_of(connection, user_id)
    if not prefix:
        return []
    own = sa.select(sa.func.sum(_texts.c.passages)).where(_texts.c.user_id == user_id)
    total = connection.scalar(own) or 0
    values: dict[str, Any] = {"user_id": user_id, "limit": limit}
    for number, word in enumerate(words):
        # In quotes a word is a word, and nothing of FTS5's query language.
        match = f'"{_prefixed(prefix, word)}"'
        count = connection.scalar(_COUNT, {"word": match}) or 0
        if count:
            rarity = math.log(1 + max(total - count, 0) / count) + 0.1
            values |= {f"word{number}": match, f"rarity{number}": rarity}
    numbers = [name.removeprefix("word") for name in values if name.startswith("word")]
    return connection.execute(_best(numbers), values).all() if numbers else []


def _best(numbers: Sequence[str]) -> sa.TextClause:
    """Return the passages with the rarest words; of two that are equal, the shorter one first."""
    found = " UNION ALL ".join(
        f"SELECT rowid AS id, :rarity{number} AS rarity FROM study_words "
        f"WHERE study_words MATCH :word{number}"
        for number in numbers
    )
    return sa.text(
        "SELECT t.id AS text_id, t.name, p.number, p.text "
        f"FROM (SELECT id, sum(rarity) AS rarity FROM ({found}) GROUP BY id) AS found "
        "CROSS JOIN study_passages AS p ON p.id = found.id "
        "JOIN study_texts AS t ON t.id = p.text_id WHERE t.user_id = :user_id "
        "ORDER BY found.rarity DESC, length(p.text), p.id LIMIT :limit"
    )


def _create(connection: sa.Connection) -> None:
    """Make the tables. The previous version had one index of bare words, which triggers kept."""
    _metadata.create_all(connection)
    for old in ("TRIGGER study_added", "TRIGGER study_removed", "TABLE study_index"):
        kind, name = old.split()
        connection.exec_driver_sql(f"DROP {kind} IF EXISTS {name}")
    connection.exec_driver_sql(_INDEX)
    for user_id, text_id in connection.execute(sa.select(_texts.c.user_id, _texts.c.id)).all():
        _index(connection, _ADD, text_id, _prefix_of(connection, user_id, new=True))


STEPS: Final[tuple[MigrationStep, ...]] = (_create,)
"""Of `upgrade`."""


def key_words(question: str) -> list[str]:
    """Return the words that carry meaning, in lower case; all words if none does."""
    words = list(dict.fromkeys(_WORD.findall(question.lower())))
    return ([word for word in words if word not in STOP_WORDS] or words)[:MAX_WORDS]
