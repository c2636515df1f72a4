"""The letters in the database, and how many there were that had to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs
import sqlalchemy as sa

from trioserver.app.mailbox.capacity import Totals
from trioserver.app.mailbox.message import MAX_KEY, MAX_USER, Letter, resource_of, resource_text
from trioserver.storage import Database
from trioserver.storage.migrations import Step

_T = TypeVar("_T")

READ: Final = 100
"""Letters in one read."""

_DELETED_AT_ONCE: Final = 1_000
"""Letters in one DELETE: PostgreSQL takes 65,535 parameters, SQLite often fewer."""

_COMPONENT: Final = "mailbox"

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
    sa.Column("key", sa.String(MAX_KEY)),
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

_BY_KEY: Final = sa.Index(
    "trioserver_letters_key",
    letters.c.box,
    letters.c.user_id,
    letters.c.key,
    sqlite_where=letters.c.key.is_not(None),
    postgresql_where=letters.c.key.is_not(None),
)

_DROPPED_AT: Final = sa.Index("trioserver_letters_dropped_at", dropped.c.box, dropped.c.at)

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


@attrs.frozen(kw_only=True)
class Swept:
    """``letters`` were taken away; ``is_last``: there is nothing more that is too old."""

    letters: int
    is_last: bool


class Store:
    """One box. Each method is one transaction, and raises `DatabaseUnavailableError`."""

    def __init__(self, database: Database, box: str, bounds: Bounds) -> None:
        if not 0 < len(box) <= _BOX or not box.isascii() or not box.isprintable():
            raise ValueError(f"box is {box!r}; it must be 1 to {_BOX} printable ASCII characters")
        self._database = database
        self._box = box
        self._bounds = bounds
        self._there = False

    async def create(self) -> None:
        """Make the tables, or bring them up to date. Raises `SchemaTooNewError` too."""
        if not self._there:
            await self._database.migrate(_COMPONENT, _STEPS)
            self._there = True

    async def add(self, letter: Letter, *, now: float) -> int:
        """Keep a letter; when this returns it survives a crash. How many older ones had to go.

        A letter with the same key is replaced, and does not count. ``now`` says what is too old.
        """
        row = {
            "id": letter.id,
            "box": self._box,
            "user_id": letter.user,
            "type": letter.type,
            "data": letter.data,
            "resource": resource_text(letter.resource),
            "size": letter.size,
            "at": letter.at,
            "key": letter.key,
        }

        def add(connection: sa.Connection) -> int:
            if letter.key is not None:
                connection.execute(letters.delete().where(self._with_key(letter.user, letter.key)))
            connection.execute(letters.insert().values(row))
            over = self._over(connection, letter.user, now)
            if over:
                for start in range(0, len(over), _DELETED_AT_ONCE):
                    some = over[start : start + _DELETED_AT_ONCE]
                    connection.execute(letters.delete().where(letters.c.number.in_(some)))
                self._count_dropped(connection, {letter.user: len(over)}, now)
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

    async def withdraw(self, user: str, key: str) -> int:
        """Forget the user's letter with this key; how many there were."""
        delete = letters.delete().where(self._with_key(user, key))
        return await self._run(lambda connection: connection.execute(delete).rowcount)

    async def totals(self) -> Totals:
        """Count all letters of the box. With 200,000 letters it takes some 0.1 s, of a reader."""
        columns = (
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(letters.c.size), 0),
            sa.func.count(letters.c.user_id.distinct()),
        )
        query = sa.select(*columns).where(letters.c.box == self._box)
        await self.create()
        row = await self._database.read(lambda connection: connection.execute(query).one())
        return Totals(letters=row[0], bytes=row[1], users=row[2])

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

    async def sweep(self, now: float, rows: int) -> Swept:
        """Take away the oldest letters that are too old, and counts that nobody was told of.

        At most ``rows`` of each, which are found by an index. A transaction on SQLite keeps all
        other writers waiting.
        """
        oldest = now - self._bounds.age
        old = (letters.c.box == self._box) & (letters.c.at < oldest)
        find_old = sa.select(letters.c.number, letters.c.user_id).where(old)
        find_old = find_old.order_by(letters.c.at).limit(rows)
        stale = (dropped.c.box == self._box) & (dropped.c.at < oldest)
        find_stale = sa.select(dropped.c.user_id).where(stale).order_by(dropped.c.at).limit(rows)

        def sweep(connection: sa.Connection) -> Swept:
            users = connection.scalars(find_stale).all()
            mine = stale & dropped.c.user_id.in_(users)
            connection.execute(dropped.delete().where(mine))
            found = connection.execute(find_old).all()
            numbers = [row.number for row in found]
            connection.execute(letters.delete().where(letters.c.number.in_(numbers)))
            self._count_dropped(connection, Counter(row.user_id for row in found), now)
            return Swept(letters=len(found), is_last=max(len(found), len(users)) < rows)

        return await self._run(sweep)

    def _of(self, user: str) -> sa.ColumnElement[bool]:
        return _same(letters, self._box, user)

    def _with_key(self, user: str, key: str) -> sa.ColumnElement[bool]:
        return self._of(user) & (letters.c.key == key)

    def _count_dropped(self, connection: sa.Connection, counts: dict[str, int], now: float) -> None:
        rows = [
            {"box": self._box, "user_id": user, "count": count, "at": now}
            for user, count in sorted(counts.items())  # in one order: no two wait for each other
        ]
        if rows:
            connection.execute(_COUNT_DROPPED, rows)

    async def _run(self, work: Callable[[sa.Connection], _T]) -> _T:
        await self.create()
        return await self._database.run(work)


def _create(connection: sa.Connection) -> None:
    """Make the tables. Those of the first version are there already, without a version, as are all
    of their indexes; only the column and the indexes that came since are missing.
    """
    _metadata.create_all(connection)
    columns = {each["name"] for each in sa.inspect(connection).get_columns(letters.name)}
    if "key" not in columns:
        connection.exec_driver_sql(f"ALTER TABLE {letters.name} ADD COLUMN key VARCHAR({MAX_KEY})")
    for index in (_BY_KEY, _DROPPED_AT):
        index.create(connection, checkfirst=True)


_STEPS: Final[tuple[Step, ...]] = (_create,)


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
