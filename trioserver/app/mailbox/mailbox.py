"""The mailbox of an application."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import islice
from typing import Any, Final

import attrs
import structlog
import trio
from msgspec import UNSET

from protocol import TooBigToSendError
from trioserver.app.mailbox.capacity import Room, Totals
from trioserver.app.mailbox.message import is_key, is_user, new_letter
from trioserver.app.mailbox.sweeping import say_unavailable, sweep_forever
from trioserver.app.mailbox.user_queue import RETRY, Courier, Desk, Recipient
from trioserver.auth.component import Component
from trioserver.auth.user import User, id_of
from trioserver.storage import Database
from trioserver.storage.retention import RetentionClock
from trioserver.storage.turn import Turn

LAST_WORDS: Final = 2.0
"""Seconds, at the end, for noting what has been delivered."""

_BATCH: Final = 500  # ids in one DELETE

_DAY: Final = 86400.0

_log: Final = structlog.get_logger("trioserver")


@attrs.frozen(kw_only=True)
class SendReceipt:
    """What became of a message: its ``id``, and to how many connections it has been given.

    With 0 ``connections`` it waits. ``dropped`` counts older messages of the user that had to go to
    make room, or were too old.
    """

    id: str
    connections: int
    dropped: int


class Mailbox(Component):
    """Messages for users who may be away: ``Application(mailbox=Mailbox("sqlite:///mail.db"))``,
    and ``route(..., mailbox=True)`` where they are to be delivered.

    ``database``: a URL, or a `Database` that the application's lifespan opens. ``box`` keeps the
    mailboxes of several applications apart that share a database; each is for one server process.

    For each user at most ``max_messages`` wait, of ``max_bytes`` together, for ``max_age`` seconds.
    Beyond that the oldest are dropped: `SendReceipt` tells the sender how many, and the message
    ``mailbox.dropped``, with the ``count``, tells the user at the next `ready`.

    For all users of the box together at most ``max_total_messages`` wait, of ``max_total_bytes``
    together, for ``max_users`` different users. Beyond that nothing goes: `send` raises
    `MailboxFullError`, so that nobody can push out what is kept for others.

    Raises `ValueError` and `ImportError`, as `Database` does.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Database,
        *,
        box: str = "default",
        max_messages: int = 1_000,
        max_bytes: int = 1024 * 1024,
        max_age: float = 7 * _DAY,
        max_total_messages: int = 200_000,
        max_total_bytes: int = 256 * 1024 * 1024,
        max_users: int = 50_000,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if max_messages < 1:
            raise ValueError(f"max_messages is {max_messages!r}; it must be 1 or more")
        if max_bytes < 1024:
            raise ValueError(f"max_bytes is {max_bytes!r}; it must be 1024 or more")
        if max_total_messages < max_messages:
            raise ValueError(
                f"max_total_messages is {max_total_messages!r}; it must be max_messages or more"
            )
        if max_total_bytes < max_bytes:
            raise ValueError(
                f"max_total_bytes is {max_total_bytes!r}; it must be max_bytes or more"
            )
        if max_users < 1:
            raise ValueError(f"max_users is {max_users!r}; it must be 1 or more")
        if not 1.0 <= max_age <= 3650 * _DAY:
            raise ValueError(f"max_age is {max_age!r}; it must be from 1 s to ten years")
        self.max_bytes = max_bytes
        self.max_message_bytes = sys.maxsize  # the server says so
        self._opens = not isinstance(database, Database)
        self._database = database if isinstance(database, Database) else Database(database)
        # Here, because they need SQLAlchemy; and now, so that it is missed at once.
        from trioserver.app.mailbox.sql_store import Bounds, Store

        bounds = Bounds(messages=max_messages, bytes=max_bytes, age=max_age)
        self._store = Store(self._database, box, bounds)
        self._room = Room(
            self._store,
            Totals(letters=max_total_messages, bytes=max_total_bytes, users=max_users),
            timeout=self._database.timeout,
        )
        self._clock = RetentionClock(wall_clock)
        self._desks: dict[str, Desk] = {}
        self._delivered: dict[str, None] = {}  # and still in the database
        self._has_delivered = trio.Event()

    def __repr__(self) -> str:
        return f"<Mailbox in {self._database!r}>"

    async def send(
        self,
        user: str | User,
        type: str,
        data: Any = UNSET,
        *,
        resource: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> SendReceipt:
        """Send a message to a user: now, where the user is connected, or at the next `ready`.

        When this returns, the message survives a crash. Messages are delivered in the order in
        which they were sent: to all connections that are ready now, or, if there is none, to the
        next one. ``resource``: only to connections whose path has these parameters.

        ``key``: the message takes the place of one with the same key that still waits for the
        user. Use it for notices of which only the last one counts: they cannot push out others.

        Raises `DatabaseUnavailableError` and `MailboxFullError`, and `ValueError` or `TypeError`
        for what cannot be sent, of which `protocol.TooBigToSendError` is one; then nothing was.
        Cancelling this leaves it unknown whether it was sent.
        """
        name = id_of(user)
        letter = new_letter(name, type, data, resource, self._clock.stamp(), key)
        if letter.size > self.max_bytes:
            raise TooBigToSendError(letter.size, self.max_bytes)
        if len(letter.text) > self.max_message_bytes:
            raise TooBigToSendError(len(letter.text), self.max_message_bytes)
        await self._room.take(name, letter.size)
        with self._at_desk(name) as desk:
            async with Turn(desk.posting, self._database.timeout):
                here = desk.reserve(letter)
                try:
                    dropped = await self._store.add(letter, now=self._clock.now())
                except BaseException:
                    desk.forget(letter.id)
                    desk.look_again()  # it may have been stored all the same
                    raise
                given = desk.give(letter, here)
        if dropped:
            _log.warning("mailbox_messages_dropped", count=dropped)
        return SendReceipt(id=letter.id, connections=given, dropped=dropped)

    async def withdraw(self, user: str | User, key: str) -> bool:
        """Take back the message with this ``key``; whether it still waited. Raises as `send`.

        A message that is on its way to the client at this moment arrives all the same.
        """
        name = id_of(user)
        if not (is_user(name) and is_key(key)):
            return False
        return await self._store.withdraw(name, key) > 0

    async def waiting(self, user: str | User) -> int:
        """How many messages are kept for a user; those on their way count. Raises as `send`."""
        name = id_of(user)
        return await self._store.count(name) if is_user(name) else 0

    async def acknowledge(self, user: str | User, ids: Sequence[str]) -> None:
        """The user has these messages; returns when they will not be delivered again.

        Raises `DatabaseUnavailableError`.
        """
        name = id_of(user)
        await self._store.remove(ids, user=name)
        with self._at_desk(name) as desk:
            for id in ids:
                desk.forget(id)

    # ------------------------------------------------------------- for the rest of the server

    async def serve(self, connection: Recipient) -> None:
        """Deliver to a connection that is ready, until cancelled."""
        name = "" if connection.user is None else connection.user.id
        if not is_user(name):
            return  # there can be nothing for such a user
        with self._at_desk(name) as desk:
            courier = Courier(
                desk,
                connection,
                store=self._store,
                undone=lambda: set(self._delivered),
                clock=self._clock.now,
            )
            await courier.run()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note what has been delivered, and take away what is too old; the server runs it.

        Raises `DatabaseUnavailableError` where SQLite's file cannot be where it should be, and
        `SchemaTooNewError`.
        """
        self._clock.start()
        async with AsyncExitStack() as stack:
            if self._opens:
                await stack.enter_async_context(self._database)
            await self._prepare()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._note_delivered)
                    nursery.start_soon(sweep_forever, self._store, self._clock.now)
                    task_status.started()
            finally:
                with trio.move_on_after(LAST_WORDS, shield=True):
                    await self._note_what_is_left()

    async def _prepare(self) -> None:
        try:
            await self._store.create()
        except ValueError:
            raise  # `SchemaTooNewError`: a newer server has made the tables
        except Exception as error:  # it is tried again with the first letter
            say_unavailable(error)

    async def check_health(self) -> None:
        """Raises `DatabaseUnavailableError` while messages can be neither kept nor read."""
        await self._database.check_health()

    @contextmanager
    def _at_desk(self, user: str) -> Iterator[Desk]:
        """The user's desk, for as long as somebody is at it."""
        desk = self._desks.get(user)
        if desk is None:
            desk = self._desks[user] = Desk(user, self._note)
        desk.visitors += 1
        try:
            yield desk
        finally:
            desk.visitors -= 1
            if desk.is_idle:
                del self._desks[user]

    def _note(self, id: str) -> None:
        self._delivered[id] = None
        self._has_delivered.set()

    async def _note_delivered(self) -> None:
        while True:
            while self._delivered:
                try:
                    await self._note_some()
                except Exception as error:  # nothing that a database does ends the server
                    say_unavailable(error)
                    await trio.sleep(RETRY)
            self._has_delivered = trio.Event()
            await self._has_delivered.wait()

    async def _note_some(self) -> None:
        ids = list(islice(self._delivered, _BATCH))
        await self._store.remove(ids)
        for id in ids:
            self._delivered.pop(id, None)

    async def _note_what_is_left(self) -> None:
        try:
            while self._delivered:
                await self._note_some()
        except Exception as error:
            say_unavailable(error, notes=len(self._delivered))
