"""What the behaviour log keeps: phones, sessions and events, in SQLite.

Events of many phones are committed together, and sessions looked up together. Whoever waits for an
event waits for its commit.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
import sqlalchemy as sa
import structlog
import trio
from sqlalchemy.dialects.sqlite import insert

from trioserver import Refusal
from trioserver.storage import Batcher, BatchFailed, BatchOverflow, Database

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
    sa.Column("event_id", sa.String(400), nullable=False),  # as JSON: 1 is not "1"
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
    """What the session store knows of a session."""

    user_id: str
    phone: str
    device_id: str
    blocked: bool


@attrs.frozen
class Stored:
    """An event as it is stored; the names are those of the columns."""

    session_id: str
    event_id: str
    event_type: str
    at: str
    data: str = attrs.field(repr=False)


class Store:
    """Phones, sessions and events, in the database. Raises `Refusal` where that is away."""

    def __init__(self, database: Database) -> None:
        self.database = database
        timeout = database.timeout
        self._sessions = Batcher(self._load_sessions, timeout=timeout, load_timeout=2 * timeout)
        self._events = Batcher(self._add_events, timeout=timeout, load_timeout=2 * timeout)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer for as long as the application runs."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._sessions.run)
            await nursery.start(self._events.run)
            task_status.started()

    async def session(self, id: str) -> Session | None:
        """The session; those who ask at the same time share a query."""
        return await _answer(self._sessions, id)

    async def record(self, event: Stored) -> None:
        """When this returns, the event survives a crash; those that come together share a commit.

        Cancelling this leaves it unknown; sending the event again does no harm.
        """
        await _answer(self._events, event)

    async def _load_sessions(self, ids: Sequence[str]) -> Mapping[str, Session | None]:
        query = sa.select(sessions).where(sessions.c.id.in_(ids))
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        found = {
            row.id: Session(row.user_id, row.phone, row.device_id, row.blocked) for row in rows
        }
        return {id: found.get(id) for id in ids}

    async def _add_events(self, new: Sequence[Stored]) -> Mapping[Stored, None]:
        now = time.time()
        rows = [attrs.asdict(event) | {"received_at": now} for event in new]
        same = ["session_id", "event_id"]
        await self._write(insert(events).on_conflict_do_nothing(index_elements=same), rows)
        return dict.fromkeys(new)

    async def credentials(self, phone: str) -> tuple[str, str] | None:
        """The user's id and the stored MPIN."""
        query = sa.select(phones.c.user_id, phones.c.mpin).where(phones.c.phone == phone)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else (row.user_id, row.mpin)

    async def add_phone(self, phone: str, user_id: str, mpin: str) -> None:
        """Have a phone; ``mpin`` is hashed already."""
        await self._write(phones.insert(), {"phone": phone, "user_id": user_id, "mpin": mpin})

    async def begin(self, session: Session) -> str:
        """A new session. Its id cannot be guessed."""
        id = uuid.uuid4().hex
        row = attrs.asdict(session) | {"id": id, "created_at": time.time()}
        await self._write(sessions.insert(), row)
        return id

    async def set_blocked(self, id: str, blocked: bool) -> bool:
        """Whether there is such a session."""
        update = sessions.update().where(sessions.c.id == id).values(blocked=blocked)
        return await self._write(update) > 0

    async def _write(self, statement: sa.Executable, rows: Any = None) -> int:
        """In a transaction of its own; how many rows it met."""
        return await self.database.run(
            lambda connection: connection.execute(statement, rows).rowcount
        )


async def _answer(batcher: Batcher[K, V], key: K) -> V:
    try:
        return await batcher.get(key)
    except (BatchFailed, BatchOverflow, trio.TooSlowError) as error:
        log.error("behavior_store_failed", error=type(error.__cause__ or error).__name__)
        raise Refusal("unavailable") from None
