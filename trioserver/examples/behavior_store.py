"""The database of the behaviour log: phones, sessions and events, in SQLite.

Events of many phones are committed together, and sessions looked up together. Whoever waits for an
event waits for its commit.

The client names an event with a key, ``event_id``, that it makes once and sends again after a
reconnect. The key is unique in its session. Events without a key are stored each time.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
import sqlalchemy as sa
import structlog
import trio
from sqlalchemy.dialects.sqlite import insert

from trioserver import (
    Batcher,
    BatchFailedError,
    BatchOverflowError,
    Database,
    MigrationStep,
    Refusal,
)

metadata: Final = sa.MetaData()

phones: Final = sa.Table(
    "phones",
    metadata,
    sa.Column("phone", sa.String(16), primary_key=True),
    sa.Column("user_id", sa.String(64), nullable=False),
    sa.Column("mpin", sa.String(200), nullable=False),  # hashed
)

sessions: Final = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(64), nullable=False, index=True),
    sa.Column("phone", sa.String(16), nullable=False),
    sa.Column("device_id", sa.String(128), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("blocked", sa.Boolean, nullable=False),
)

events: Final = sa.Table(
    "behavior_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("session_id", sa.ForeignKey("sessions.id"), nullable=False),
    sa.Column("event_id", sa.String(64)),  # the client's key; NULL is never equal to NULL
    sa.Column("event_type", sa.String(64), nullable=False),
    sa.Column("at", sa.Text, nullable=False),  # as JSON, and as the phone wrote it
    sa.Column("data", sa.Text, nullable=False),  # as JSON
    sa.Column("received_at", sa.Float, nullable=False),
    sa.UniqueConstraint("session_id", "event_id"),
)

log: Final = structlog.get_logger("trioserver")

K = TypeVar("K")
V = TypeVar("V")


@attrs.frozen
class Session:
    """A session, as it is stored."""

    user_id: str
    phone: str
    device_id: str
    blocked: bool

    def is_from(self, phone: str, device_id: str) -> bool:
        """Return whether the session was started with this phone, and on this device."""
        return (self.phone, self.device_id) == (phone, device_id)


@attrs.frozen(eq=False)  # two events with the same content and no key are two events
class Stored:
    """An event, as it is stored. The fields are the columns; ``event_id`` is the key."""

    session_id: str
    event_id: str | None
    event_type: str
    at: str
    data: str = attrs.field(repr=False)

    def is_same(self, row: sa.Row[Any]) -> bool:
        """Return whether a stored row has the same content, whatever the form of its JSON."""
        return (
            row.event_type == self.event_type
            and _is_same_json(row.at, self.at)
            and _is_same_json(row.data, self.data)
        )


class Store:
    """Phones, sessions and events. Raises `Refusal` if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self.database = database
        timeout = database.timeout
        self._sessions = Batcher(self._load_sessions, timeout=timeout, load_timeout=2 * timeout)
        self._events = Batcher(self._add_events, timeout=timeout, load_timeout=2 * timeout)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the batches while the application runs."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._sessions.run)
            await nursery.start(self._events.run)
            task_status.started()

    async def session(self, id: str) -> Session | None:
        """Return the session. Concurrent calls share a query."""
        return await _answer(self._sessions, id)

    async def record(self, event: Stored) -> None:
        """Store an event. When this returns, it survives a crash.

        An event whose key is stored already in its session is not stored again. Cancelling this
        leaves it unknown whether the event was stored; with a key it can be sent again.

        Raises `Refusal` with ``key_conflict`` if the key is stored with other content.
        """
        if not await _answer(self._events, event):
            raise Refusal("key_conflict", "Another event of the session has this `event_id`.")

    async def _load_sessions(self, ids: Sequence[str]) -> Mapping[str, Session | None]:
        query = sa.select(sessions).where(sessions.c.id.in_(ids))
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        found = {
            row.id: Session(row.user_id, row.phone, row.device_id, row.blocked) for row in rows
        }
        return {id: found.get(id) for id in ids}

    async def _add_events(self, new: Sequence[Stored]) -> Mapping[Stored, bool]:
        """Store events in one transaction. False: another event has the key."""
        now = time.time()
        rows = [attrs.asdict(event) | {"received_at": now} for event in new]
        keyed = {(event.session_id, event.event_id) for event in new if event.event_id is not None}
        same = sa.tuple_(events.c.session_id, events.c.event_id).in_(keyed)
        stored = sa.select(events).where(same)
        add_new = insert(events).on_conflict_do_nothing(index_elements=["session_id", "event_id"])

        def add(connection: sa.Connection) -> Mapping[Stored, bool]:
            done = connection.execute(add_new, rows)
            if done.rowcount == len(rows):
                return dict.fromkeys(new, True)
            there = {(row.session_id, row.event_id): row for row in connection.execute(stored)}
            return {
                event: event.event_id is None
                or event.is_same(there[event.session_id, event.event_id])
                for event in new
            }

        return await self.database.run(add)

    async def credentials(self, phone: str) -> tuple[str, str] | None:
        """Return the user's id and the stored MPIN; None if there is no such phone."""
        query = sa.select(phones.c.user_id, phones.c.mpin).where(phones.c.phone == phone)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else (row.user_id, row.mpin)

    async def add_phone(self, phone: str, user_id: str, mpin: str) -> None:
        """Store a phone; ``mpin`` is hashed already."""
        await self._write(phones.insert(), {"phone": phone, "user_id": user_id, "mpin": mpin})

    async def begin(self, session: Session) -> str:
        """Create a session and return its id, which cannot be guessed."""
        id = uuid.uuid4().hex
        row = attrs.asdict(session) | {"id": id, "created_at": time.time()}
        await self._write(sessions.insert(), row)
        return id

    async def set_blocked(self, id: str, blocked: bool) -> bool:
        """Set whether a session is blocked; return False if there is no such session."""
        update = sessions.update().where(sessions.c.id == id).values(blocked=blocked)
        return await self._write(update) > 0

    async def _write(self, statement: sa.Executable, rows: Any = None) -> int:
        """Run a statement in its own transaction; return the number of rows."""
        return await self.database.run(
            lambda connection: connection.execute(statement, rows).rowcount
        )


async def _answer(batcher: Batcher[K, V], key: K) -> V:
    try:
        return await batcher.get(key)
    except (BatchFailedError, BatchOverflowError, trio.TooSlowError) as error:
        log.error("behavior_store_failed", error=type(error.__cause__ or error).__name__)
        raise Refusal("unavailable") from None


def _is_same_json(one: str, other: str) -> bool:
    return one == other or json.loads(one) == json.loads(other)


def _create(connection: sa.Connection) -> None:
    """Make the tables. The previous version had the request's id for the key of an event.

    Ids of requests begin anew with each connection, so those of stored events tell nothing: the
    events are kept, without a key.
    """
    inspector = sa.inspect(connection)
    columns = inspector.get_columns(events.name) if inspector.has_table(events.name) else []
    is_previous = any(each["name"] == "event_id" and not each["nullable"] for each in columns)
    previous = f"{events.name}_previous"
    if is_previous:
        connection.exec_driver_sql(f"ALTER TABLE {events.name} RENAME TO {previous}")
    metadata.create_all(connection)
    if is_previous:
        kept = ", ".join(column.name for column in events.columns if column.name != "event_id")
        copy = f"INSERT INTO {events.name} ({kept}) SELECT {kept} FROM {previous}"
        connection.exec_driver_sql(copy)
        connection.exec_driver_sql(f"DROP TABLE {previous}")


STEPS: Final[tuple[MigrationStep, ...]] = (_create,)
"""Of `upgrade`."""
