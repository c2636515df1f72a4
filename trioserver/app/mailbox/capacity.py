"""The limits for all messages of a namespace together."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from protocol import Refusal
from trioserver.app.mailbox.store import Store, Totals
from trioserver.logs.throttle import LogThrottle
from trioserver.storage.turn import Turn

COUNT_INTERVAL: Final = 5.0
"""Seconds between two counts of a namespace that is full. With a higher value, free capacity is
found later.
"""

_log: Final = structlog.get_logger("trioserver")


class MailboxFullError(Refusal):
    """The namespace is full, so the message was not stored. Try again later.

    If a handler raises it, the client gets the error ``mailbox_full`` with retry "backoff".
    """

    def __init__(self) -> None:
        super().__init__("mailbox_full", "The mailbox is full.", retry="backoff")


class Capacity:
    """Admits messages while the namespace is within ``bounds``.

    Added messages are counted in memory, deleted ones are not. When a count reaches its limit, the
    messages are counted in the database, so that this costs nothing until the namespace is full.
    ``timeout``, in seconds, bounds the wait while another task counts.
    """

    def __init__(self, store: Store, bounds: Totals, *, timeout: float) -> None:
        self._store = store
        self._bounds = bounds
        self._timeout = timeout
        self._messages = self._bytes = self._users = 0  # never less than there are, once counted
        self._since_counted: set[str] = set()  # users; perhaps new ones, perhaps counted already
        self._counted: float | None = None
        self._counting = trio.Lock()
        self._log_throttle = LogThrottle(60.0)

    async def acquire(self, user: str, size: int) -> None:
        """Count a message that is about to be stored, if there is capacity for it.

        Raises `MailboxFullError` and `DatabaseUnavailableError`.
        """
        if self._counted is None or self._is_full(size):
            await self._count_again(size)
        if self._is_full(size) and not await self._is_only_short_of_users(user, size):
            self._log_full()
            raise MailboxFullError
        self._messages += 1
        self._bytes += size
        self._since_counted.add(user)

    def _is_full(self, size: int) -> bool:
        return self._is_too_large(size) or self._users_at_most >= self._bounds.users

    @property
    def _users_at_most(self) -> int:
        return self._users + len(self._since_counted)

    def _is_too_large(self, size: int) -> bool:
        too_large = self._bytes + size > self._bounds.bytes
        return too_large or self._messages >= self._bounds.messages

    async def _is_only_short_of_users(self, user: str, size: int) -> bool:
        """Whether only the number of users is at its limit, and the user has messages already."""
        return not self._is_too_large(size) and await self._store.count(user) > 0

    async def _count_again(self, size: int) -> None:
        async with Turn(self._counting, self._timeout):
            now = trio.current_time()
            if self._counted is not None and (
                not self._is_full(size) or now < self._counted + COUNT_INTERVAL
            ):
                return  # another task has counted
            before = (self._messages, self._bytes, self._since_counted)
            self._since_counted = set()
            try:
                totals = await self._store.totals()
            except BaseException:
                self._since_counted |= before[2]
                raise
            # Messages that were admitted during the count may not be in it.
            self._messages += totals.messages - before[0]
            self._bytes += totals.bytes - before[1]
            self._users = totals.users
            self._counted = now

    def _log_full(self) -> None:
        suppressed = self._log_throttle.allow(trio.current_time())
        if suppressed is not None:
            _log.warning(
                "mailbox_full",
                messages=self._messages,
                bytes=self._bytes,
                users_at_most=self._users_at_most,
                suppressed=suppressed,
            )
