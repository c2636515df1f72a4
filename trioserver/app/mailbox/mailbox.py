"""The mailbox of an application: what an embedder calls, and what the server calls."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs
import structlog
import trio
from msgspec import UNSET

from protocol import TooBigToSendError
from trioserver.app.mailbox.capacity import Capacity
from trioserver.app.mailbox.message import is_key, is_user, new_message
from trioserver.app.mailbox.queues import UserQueues
from trioserver.app.mailbox.recipient import Recipient
from trioserver.app.mailbox.store import Bounds, Store, Totals
from trioserver.app.mailbox.sweeping import log_unavailable, sweep_forever
from trioserver.auth.component import Component
from trioserver.auth.user import User, id_of
from trioserver.logs.lines import may_log
from trioserver.storage import Database
from trioserver.storage.retention import RetentionClock
from trioserver.storage.turn import Turn

_DAY: Final = 86400.0

_log: Final = structlog.get_logger("trioserver")


@attrs.frozen(kw_only=True)
class SendReceipt:
    """What happened to a message that was sent.

    - ``id``: the message's id.
    - ``connections``: how many connections it was given to. If 0, it waits in the database.
    - ``dropped``: how many older messages of the user were dropped, because they were too old or to
      make room.
    """

    id: str
    connections: int
    dropped: int


class Mailbox(Component):
    """Messages for users who may not be connected: kept in a database until they are delivered.

    ``Application(mailbox=Mailbox("sqlite:///mail.db"))``, and ``route(..., mailbox=True)`` for the
    routes whose connections they are delivered to.

    - ``database``: a URL, or a `Database` that the application's lifespan opens.
    - ``namespace``: separates the mailboxes of applications that share a database. Only one server
      process may use a namespace.
    - ``max_messages``, ``max_bytes``, ``max_age`` (seconds): limits for the messages that wait for
      one user. Beyond them the oldest messages are dropped. The sender gets their number in
      `SendReceipt`, and the user in a message ``mailbox.dropped``, with the ``count``, at the next
      `ready`.
    - ``max_total_messages``, ``max_total_bytes``, ``max_users``: limits for all users of the
      namespace together. Beyond them `send` raises `MailboxFullError` and nothing is dropped, so
      that messages for one user cannot displace those for another.
    - ``clock``: returns the time in seconds since the Unix epoch.

    Raises `ValueError` and `ImportError`, as `Database` does.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Database,
        *,
        namespace: str = "default",
        max_messages: int = 1_000,
        max_bytes: int = 1024 * 1024,
        max_age: float = 7 * _DAY,
        max_total_messages: int = 200_000,
        max_total_bytes: int = 256 * 1024 * 1024,
        max_users: int = 50_000,
        clock: Callable[[], float] = time.time,
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
        self.max_message_bytes = sys.maxsize  # the server lowers it
        self._opens = not isinstance(database, Database)
        self._database = database if isinstance(database, Database) else Database(database)
        # Here, because it needs SQLAlchemy; and now, so that it is missed at once.
        from trioserver.app.mailbox.sql_store import SQLStore

        bounds = Bounds(messages=max_messages, bytes=max_bytes, age=max_age)
        self._store: Store = SQLStore(self._database, namespace, bounds)
        self._capacity = Capacity(
            self._store,
            Totals(messages=max_total_messages, bytes=max_total_bytes, users=max_users),
            timeout=self._database.timeout,
        )
        self._clock = RetentionClock(clock)
        self._queues = UserQueues(self._store, now=self._clock.now)

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
        """Send a message to a user: now if the user is connected, otherwise at the next `ready`.

        When this returns, the message survives a crash. Messages are delivered in the order in
        which they were sent: to all connections that are ready now, or, if there is none, to the
        next one.

        - ``resource``: deliver only to connections whose path has these parameters.
        - ``key``: replace a message with the same key that still waits for the user. Use it for
          notices of which only the last one counts, so that they displace no other messages.

        Raises `DatabaseUnavailableError` and `MailboxFullError`, and `ValueError` or `TypeError`
        for what cannot be sent, of which `protocol.TooBigToSendError` is one; then nothing was
        sent. If cancelled, it is unknown whether the message was sent.
        """
        name = id_of(user)
        message = new_message(name, type, data, resource, self._clock.stamp(), key)
        if message.size > self.max_bytes:
            raise TooBigToSendError(message.size, self.max_bytes)
        if len(message.text) > self.max_message_bytes:
            raise TooBigToSendError(len(message.text), self.max_message_bytes)
        await self._capacity.acquire(name, message.size)
        with self._queues.sending_to(name) as queue:
            async with Turn(queue.sending, self._database.timeout):
                recipients = queue.reserve(message)
                try:
                    dropped = await self._store.add(message, now=self._clock.now())
                except BaseException:
                    queue.forget(message.id)
                    queue.read_all_again()  # it may have been stored all the same
                    raise
                connections = queue.give(message, recipients)
        if dropped and may_log("mailbox_messages_dropped"):
            _log.warning("mailbox_messages_dropped", count=dropped)
        return SendReceipt(id=message.id, connections=connections, dropped=dropped)

    async def withdraw(self, user: str | User, key: str) -> bool:
        """Delete the message with this ``key``; return whether it was still waiting.

        A message that is on its way to the client at this moment still arrives. Raises as `send`.
        """
        name = id_of(user)
        if not (is_user(name) and is_key(key)):
            return False
        return await self._store.withdraw(name, key) > 0

    async def waiting(self, user: str | User) -> int:
        """Return how many messages wait for a user, including those on their way to the client.

        Raises as `send`.
        """
        name = id_of(user)
        return await self._store.count(name) if is_user(name) else 0

    async def acknowledge(self, user: str | User, ids: Sequence[str]) -> None:
        """Delete messages that the client has. When this returns, they are not delivered again.

        Raises `DatabaseUnavailableError`.
        """
        name = id_of(user)
        await self._store.remove(ids, user=name)
        with self._queues.sending_to(name) as queue:
            for id in ids:
                queue.forget(id)

    # ------------------------------------------------------------- for the server

    def join(self, recipient: Recipient) -> None:
        """Deliver to a connection that has become ready, until `leave`."""
        if is_user(recipient.user_id):  # there are no messages for others
            self._queues.join(recipient)

    def leave(self, recipient: Recipient) -> None:
        """Stop delivering to a connection, and give what it has not delivered to another one."""
        self._queues.leave(recipient)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver messages, and delete those that are delivered or too old; the server runs this.

        Raises `DatabaseUnavailableError` if the file of an SQLite database cannot be where it
        should be, and `SchemaTooNewError`.
        """
        self._clock.start()
        async with AsyncExitStack() as stack:
            if self._opens:
                await stack.enter_async_context(self._database)
            await self._prepare()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._queues.run)
                nursery.start_soon(sweep_forever, self._store, self._clock.now)
                task_status.started()

    async def _prepare(self) -> None:
        try:
            await self._store.create()
        except ValueError:
            raise  # `SchemaTooNewError`
        except Exception as error:  # it is tried again with the first message
            log_unavailable(error)

    async def check_health(self) -> None:
        """Raise `DatabaseUnavailableError` while messages can be neither stored nor read."""
        await self._database.check_health()
