"""The letters in the database, and how many there were that had to go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs
import sqlalchemy as sa

from trioserver.mailbox.letter import MAX_USER, Letter, resource_of, resource_text
from trioserver.storage import Database

_T = TypeVar("_T")

READ: Final = 100
"""Letters in one read."""

SWEEP: Final = 500
"""Users of whom expired letters are taken away in one transaction."""

_CREATING: Final = 0x7472696F  # any number that others do not use

_metadata: Final = sa.MetaData()

_BOX: Final = 64  # characters

letters: Final = sa.Table(
    "trioserver_letters",
    _metadata,
    # SQLite counts an INTEGER only; with AUTOINCREMENT no number comes twice.
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("box", sa.String(_BOX), nullable=False),
    sa.Column("user_id", sa.String(MAX_USER), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("data", sa.Text),
    sa.Column("resource", sa.Text),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("trioserver_letters_of", "box", "user_id", "number"),
    sa.Index("trioserver_letters_at", "box", "at"),
    sqlite_autoincrement=True,
)

dropped: Final = sa.Table(
    "trioserver_letters_dropped",
    _metadata,
    sa.Column("box", sa.String(_BOX), primary_key=True),
    sa.Column("user_id", sa.String(MAX_USER), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

_COUNT_DROPPED: Final = sa.text(
    "INSERT INTO trioserver_letters_dropped (box, user_id, count, at)"
    " VALUES (:box, :user_id, :count, :at) ON CONFLICT (box, user_id) DO UPDATE"
    " SET count = trioserver_letters_dropped.count + excluded.count, at = excluded.at"
)


@attrs.frozen(kw_only=True)
class Bounds:
    """For each user: letters, bytes, seconds."""

    messages: int
    bytes: int
    age: float


@attrs.frozen(kw_only=True)
class Page:
    """Some letters of a user, in order. ``last`` is the number of the last one that was looked at;
    ``dropped`` are those that had to go and that the user has not been told of.
    """

    letters: list[Letter]
    last: int
    is_last: bool
    dropped: int


class Store:
    """One box. Each method is one transaction, and raises `DatabaseUnavailable`."""

    def __init__(self, database: Database, box: str, bounds: Bounds) -> None:
        if not 0 < len(box) <= _BOX or not box.isascii() or not box.isprintable():
            raise ValueError(f"box is {box!r}; it must be 1 to {_BOX} printable ASCII characters")
        self._database = database
        self._box = box
        self._bounds = bounds
        self._there = False

    async def create(self) -> None:
        """Make the tables where they are not there yet."""
        if not self._there:
            await self._database.run(_create)
            self._there = True

    async def add(self, letter: Letter) -> int:
        """Keep a letter; when this returns it survives a crash. How many older ones had to go."""
        row = {
            "id": letter.id,
            "box": self._box,
            "user_id": letter.user,
            "type": letter.type,
            "data": letter.data,
            "resource": resource_text(letter.resource),
            "size": letter.size,
            "at": letter.at,
        }

        def add(connection: sa.Connection) -> int:
            connection.execute(letters.insert().values(row))
            over = self._over(connection, letter.user, letter.at)
            if over:
                connection.execute(letters.delete().where(letters.c.number.in_(over)))
                self._count_dropped(connection, {letter.user: len(over)}, letter.at)
            return len(over)

        return await self._run(add)

    def _over(self, connection: sa.Connection, user: str, now: float) -> list[int]:
        """The numbers of those that are too old, and of the oldest beyond the bounds."""
        total = sa.select(sa.func.count(), sa.func.sum(letters.c.size), sa.func.min(letters.c.at))
        count, size, first = connection.execute(total.where(self._of(user))).one()
        oldest = now - self._bounds.age
        if count <= self._bounds.messages and size <= self._bounds.bytes and first >= oldest:
            return []
        query = sa.select(letters.c.number, letters.c.size, letters.c.at)
        rows = connection.execute(query.where(self._of(user)).order_by(letters.c.number)).all()
        over = []
        for row in rows[:-1]:  # the last one has just come
            if row.at < oldest or count > self._bounds.messages or size > self._bounds.bytes:
                over.append(row.number)
                count, size = count - 1, size - row.size
        return over

    async def read(self, user: str, *, after: int, now: float) -> Page:
        """The next letters of a user that are not too old."""
        query = sa.select(letters).where(self._of(user), letters.c.number > after)
        query = query.order_by(letters.c.number).limit(READ)
        gone = sa.select(dropped.c.count).where(_same(dropped, self._box, user))

        def read(connection: sa.Connection) -> Page:
            count = connection.scalar(gone) or 0
            rows = connection.execute(query).all()
            return Page(
                letters=[_letter(row) for row in rows if row.at >= now - self._bounds.age],
                last=rows[-1].number if rows else after,
                is_last=len(rows) < READ,
                dropped=count,
            )

        await self.create()
        return await self._database.read(read)

    async def remove(self, ids: Sequence[str], *, user: str | None = None) -> None:
        """Forget letters; with ``user``, only such as are this user's."""

        def remove(connection: sa.Connection) -> None:
            condition = letters.c.id.in_(ids) & (letters.c.box == self._box)
            if user is not None:
                condition &= letters.c.user_id == user
            connection.execute(letters.delete().where(condition))

        await self._run(remove)

    async def count(self, user: str) -> int:
        """How many there are."""
        query = sa.select(sa.func.count()).where(self._of(user))
        await self.create()
        return await self._database.read(lambda connection: connection.scalar(query) or 0)

    async def told_of_dropped(self, user: str, count: int) -> None:
        """The user has been told of so many."""
        same = _same(dropped, self._box, user)

        def told(connection: sa.Connection) -> None:
            connection.execute(dropped.delete().where(same, dropped.c.count <= count))
            less = dropped.update().where(same).values(count=dropped.c.count - count)
            connection.execute(less)

        await self._run(told)

    async def sweep(self, now: float) -> int:
        """Take letters away that are too old, of some users; 0 when there are none left."""
        oldest = now - self._bounds.age
        old = (letters.c.box == self._box) & (letters.c.at < oldest)
        query = sa.select(letters.c.user_id, sa.func.count()).where(old)

        def sweep(connection: sa.Connection) -> int:
            rows = connection.execute(query.group_by(letters.c.user_id).limit(SWEEP)).all()
            counts = {user: int(count) for user, count in rows}
            mine = letters.c.user_id.in_(list(counts))
            connection.execute(letters.delete().where(old, mine))
            stale = (dropped.c.box == self._box) & (dropped.c.at < oldest)
            connection.execute(dropped.delete().where(stale))
            self._count_dropped(connection, counts, now)
            return sum(counts.values())

        return await self._run(sweep)

    def _of(self, user: str) -> sa.ColumnElement[bool]:
        return _same(letters, self._box, user)

    def _count_dropped(self, connection: sa.Connection, counts: dict[str, int], now: float) -> None:
        for user, count in counts.items():
            values = {"box": self._box, "user_id": user, "count": count, "at": now}
            connection.execute(_COUNT_DROPPED, values)

    async def _run(self, work: Callable[[sa.Connection], _T]) -> _T:
        await self.create()
        return await self._database.run(work)


def _create(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":  # it makes no table for two at once
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING)))
    _metadata.create_all(connection)


def _same(table: sa.Table, box: str, user: str) -> sa.ColumnElement[bool]:
    return (table.c.box == box) & (table.c.user_id == user)


def _letter(row: Any) -> Letter:
    return Letter(
        id=row.id,
        user=row.user_id,
        type=row.type,
        data=row.data,
        resource=resource_of(row.resource),
        at=row.at,
        number=row.number,
    )
