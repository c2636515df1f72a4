"""The messages in an SQL database, and how many were dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from trioserver.app.mailbox.message import (
    MAX_KEY,
    MAX_USER,
    StoredMessage,
    resource_of,
    resource_text,
)
from trioserver.app.mailbox.store import Bounds, Page, Swept, Totals
from trioserver.storage import Database
from trioserver.storage.migrations import MigrationStep

_T = TypeVar("_T")

READ: Final = 100
"""Messages in one read."""

_DELETED_AT_ONCE: Final = 1_000
"""Messages in one DELETE: PostgreSQL takes 65,535 parameters, SQLite often fewer."""

_COMPONENT: Final = "mailbox"

_metadata: Final = sa.MetaData()

_MAX_NAMESPACE: Final = 64  # characters

messages: Final = sa.Table(
    "trioserver_mailbox_messages",
    _metadata,
    # SQLite counts an INTEGER only; with AUTOINCREMENT no number comes twice.
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("namespace", sa.String(_MAX_NAMESPACE), nullable=False),
    sa.Column("user_id", sa.String(MAX_USER), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("data", sa.Text),
    sa.Column("resource", sa.Text),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("key", sa.String(MAX_KEY)),
    sa.Index("trioserver_mailbox_messages_by_user", "namespace", "user_id", "number"),
    sa.Index("trioserver_mailbox_messages_by_at", "namespace", "at"),
    sa.Index(
        "trioserver_mailbox_messages_by_key",
        "namespace",
        "user_id",
        "key",
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

dropped: Final = sa.Table(
    "trioserver_mailbox_dropped",
    _metadata,
    sa.Column("namespace", sa.String(_MAX_NAMESPACE), primary_key=True),
    sa.Column("user_id", sa.String(MAX_USER), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("trioserver_mailbox_dropped_by_at", "namespace", "at"),
)

_COUNT_DROPPED: Final = sa.text(
    "INSERT INTO trioserver_mailbox_dropped (namespace, user_id, count, at)"
    " VALUES (:namespace, :user_id, :count, :at) ON CONFLICT (namespace, user_id) DO UPDATE"
    " SET count = trioserver_mailbox_dropped.count + excluded.count, at = excluded.at"
)


class SQLStore:
    """One namespace of the tables. See `Store`."""

    def __init__(self, database: Database, namespace: str, bounds: Bounds) -> None:
        printable = namespace.isascii() and namespace.isprintable()
        if not printable or not 0 < len(namespace) <= _MAX_NAMESPACE:
            raise ValueError(
                f"namespace is {namespace!r}; "
                f"it must be 1 to {_MAX_NAMESPACE} printable ASCII characters"
            )
        self._database = database
        self._namespace = namespace
        self._bounds = bounds
        self._there = False

    async def create(self) -> None:
        """See `Store`."""
        if not self._there:
            await self._database.migrate(_COMPONENT, _STEPS)
            self._there = True

    async def add(self, message: StoredMessage, *, now: float) -> int:
        """See `Store`."""
        row = {
            "id": message.id,
            "namespace": self._namespace,
            "user_id": message.user,
            "type": message.type,
            "data": message.data,
            "resource": resource_text(message.resource),
            "size": message.size,
            "at": message.at,
            "key": message.key,
        }

        def add(connection: sa.Connection) -> int:
            if message.key is not None:
                connection.execute(
                    messages.delete().where(self._with_key(message.user, message.key))
                )
            connection.execute(messages.insert().values(row))
            over = self._over(connection, message.user, now)
            if over:
                for start in range(0, len(over), _DELETED_AT_ONCE):
                    some = over[start : start + _DELETED_AT_ONCE]
                    connection.execute(messages.delete().where(messages.c.number.in_(some)))
                self._count_dropped(connection, {message.user: len(over)}, now)
            return len(over)

        return await self._run(add)

    def _over(self, connection: sa.Connection, user: str, now: float) -> list[int]:
        """Return the numbers of messages that are too old, and of the oldest beyond the limits."""
        total = sa.select(sa.func.count(), sa.func.sum(messages.c.size), sa.func.min(messages.c.at))
        count, size, first = connection.execute(total.where(self._of(user))).one()
        oldest = now - self._bounds.age
        if count <= self._bounds.messages and size <= self._bounds.bytes and first >= oldest:
            return []
        query = sa.select(messages.c.number, messages.c.size, messages.c.at)
        rows = connection.execute(query.where(self._of(user)).order_by(messages.c.number)).all()
        over = []
        for row in rows[:-1]:  # the last one has just come
            if row.at < oldest or count > self._bounds.messages or size > self._bounds.bytes:
                over.append(row.number)
                count, size = count - 1, size - row.size
        return over

    async def read(self, user: str, *, after: int, now: float) -> Page:
        """See `Store`."""
        query = sa.select(messages).where(self._of(user), messages.c.number > after)
        query = query.order_by(messages.c.number).limit(READ)
        gone = sa.select(dropped.c.count).where(_same(dropped, self._namespace, user))

        def read(connection: sa.Connection) -> Page:
            count = connection.scalar(gone) or 0
            rows = connection.execute(query).all()
            return Page(
                messages=[_stored_message(row) for row in rows if row.at >= now - self._bounds.age],
                last=rows[-1].number if rows else after,
                is_last=len(rows) < READ,
                dropped=count,
            )

        await self.create()
        return await self._database.read(read)

    async def remove(self, ids: Sequence[str], *, user: str | None = None) -> None:
        """See `Store`."""

        def remove(connection: sa.Connection) -> None:
            condition = messages.c.id.in_(ids) & (messages.c.namespace == self._namespace)
            if user is not None:
                condition &= messages.c.user_id == user
            connection.execute(messages.delete().where(condition))

        await self._run(remove)

    async def withdraw(self, user: str, key: str) -> int:
        """See `Store`."""
        delete = messages.delete().where(self._with_key(user, key))
        return await self._run(lambda connection: connection.execute(delete).rowcount)

    async def totals(self) -> Totals:
        """See `Store`. With 200,000 messages it takes some 0.1 s of a reader."""
        columns = (
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(messages.c.size), 0),
            sa.func.count(messages.c.user_id.distinct()),
        )
        query = sa.select(*columns).where(messages.c.namespace == self._namespace)
        await self.create()
        row = await self._database.read(lambda connection: connection.execute(query).one())
        return Totals(messages=row[0], bytes=row[1], users=row[2])

    async def count(self, user: str) -> int:
        """See `Store`."""
        query = sa.select(sa.func.count()).where(self._of(user))
        await self.create()
        return await self._database.read(lambda connection: connection.scalar(query) or 0)

    async def told_of_dropped(self, user: str, count: int) -> None:
        """See `Store`."""
        same = _same(dropped, self._namespace, user)

        def told(connection: sa.Connection) -> None:
            connection.execute(dropped.delete().where(same, dropped.c.count <= count))
            less = dropped.update().where(same).values(count=dropped.c.count - count)
            connection.execute(less)

        await self._run(told)

    async def sweep(self, now: float, rows: int) -> Swept:
        """See `Store`. Rows are found by an index: on SQLite all other writers wait meanwhile."""
        oldest = now - self._bounds.age
        old = (messages.c.namespace == self._namespace) & (messages.c.at < oldest)
        find_old = sa.select(messages.c.number, messages.c.user_id).where(old)
        find_old = find_old.order_by(messages.c.at).limit(rows)
        stale = (dropped.c.namespace == self._namespace) & (dropped.c.at < oldest)
        find_stale = sa.select(dropped.c.user_id).where(stale).order_by(dropped.c.at).limit(rows)

        def sweep(connection: sa.Connection) -> Swept:
            users = connection.scalars(find_stale).all()
            mine = stale & dropped.c.user_id.in_(users)
            connection.execute(dropped.delete().where(mine))
            found = connection.execute(find_old).all()
            numbers = [row.number for row in found]
            connection.execute(messages.delete().where(messages.c.number.in_(numbers)))
            self._count_dropped(connection, Counter(row.user_id for row in found), now)
            return Swept(messages=len(found), is_last=max(len(found), len(users)) < rows)

        return await self._run(sweep)

    def _of(self, user: str) -> sa.ColumnElement[bool]:
        return _same(messages, self._namespace, user)

    def _with_key(self, user: str, key: str) -> sa.ColumnElement[bool]:
        return self._of(user) & (messages.c.key == key)

    def _count_dropped(self, connection: sa.Connection, counts: dict[str, int], now: float) -> None:
        rows = [
            {"namespace": self._namespace, "user_id": user, "count": count, "at": now}
            for user, count in sorted(counts.items())  # in one order: no two wait for each other
        ]
        if rows:
            connection.execute(_COUNT_DROPPED, rows)

    async def _run(self, work: Callable[[sa.Connection], _T]) -> _T:
        await self.create()
        return await self._database.run(work)


_STEPS: Final[tuple[MigrationStep, ...]] = (_metadata.create_all,)


def _same(table: sa.Table, namespace: str, user: str) -> sa.ColumnElement[bool]:
    return (table.c.namespace == namespace) & (table.c.user_id == user)


def _stored_message(row: Any) -> StoredMessage:
    return StoredMessage(
        id=row.id,
        user=row.user_id,
        type=row.type,
        data=row.data,
        resource=resource_of(row.resource),
        at=row.at,
        number=row.number,
    )
