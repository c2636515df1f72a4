"""The bounds of all mailboxes of a box together, and who finds them reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from protocol import Refusal
from trioserver.logs.seldom import Seldom
from trioserver.storage.turn import Turn

if TYPE_CHECKING:
    from trioserver.app.mailbox.sql_store import Store

COUNT_INTERVAL: Final = 5.0
"""Seconds between two counts of a box that is full. Higher: room that was made is found later."""

_log: Final = structlog.get_logger("trioserver")


class MailboxFullError(Refusal):
    """All mailboxes together hold as much as they may. Nothing was stored; try again later.

    Raised in a handler and not caught, it is answered ``mailbox_full`` with retry "backoff".
    """

    def __init__(self) -> None:
        super().__init__(
            "mailbox_full", "There is no room to keep another message.", retry="backoff"
        )


@attrs.frozen(kw_only=True)
class Totals:
    """Letters, their bytes, and the users that they are for; of all mailboxes of a box."""

    letters: int
    bytes: int
    users: int


class Room:
    """Lets letters in while all mailboxes together are within ``bounds``.

    What is added is counted here, in memory; what is taken away is not. When the counts reach a
    bound, the letters are counted in the database, so that this costs nothing while there is room.
    ``timeout``, in seconds, bounds the wait while somebody else counts.
    """

    def __init__(self, store: Store, bounds: Totals, *, timeout: float) -> None:
        self._store = store
        self._bounds = bounds
        self._timeout = timeout
        self._letters = self._bytes = self._users = 0  # never less than there are, once counted
        self._since_counted: set[str] = set()  # users; perhaps new ones, perhaps counted already
        self._counted: float | None = None
        self._counting = trio.Lock()
        self._told = Seldom(60.0)

    async def take(self, user: str, size: int) -> None:
        """Count a letter that is about to be stored.

        Raises `MailboxFullError` and `DatabaseUnavailableError`.
        """
        if self._counted is None or self._is_full(size):
            await self._count_again(size)
        if self._is_full(size) and not await self._is_only_short_of_users(user, size):
            self._tell()
            raise MailboxFullError
        self._letters += 1
        self._bytes += size
        self._since_counted.add(user)

    def _is_full(self, size: int) -> bool:
        return self._has_no_place(size) or self._users_at_most >= self._bounds.users

    @property
    def _users_at_most(self) -> int:
        return self._users + len(self._since_counted)

    def _has_no_place(self, size: int) -> bool:
        too_large = self._bytes + size > self._bounds.bytes
        return too_large or self._letters >= self._bounds.letters

    async def _is_only_short_of_users(self, user: str, size: int) -> bool:
        """Whether there is room for a letter of a user who has some already."""
        return not self._has_no_place(size) and await self._store.count(user) > 0

    async def _count_again(self, size: int) -> None:
        async with Turn(self._counting, self._timeout):
            now = trio.current_time()
            if self._counted is not None and (
                not self._is_full(size) or now < self._counted + COUNT_INTERVAL
            ):
                return  # somebody else has counted
            before = (self._letters, self._bytes, self._since_counted)
            self._since_counted = set()
            try:
                totals = await self._store.totals()
            except BaseException:
                self._since_counted |= before[2]
                raise
            # Letters that were let in during the count may not be in it.
            self._letters += totals.letters - before[0]
            self._bytes += totals.bytes - before[1]
            self._users = totals.users
            self._counted = now

    def _tell(self) -> None:
        suppressed = self._told.ask(trio.current_time())
        if suppressed is not None:
            _log.warning(
                "mailbox_full",
                letters=self._letters,
                bytes=self._bytes,
                users_at_most=self._users_at_most,
                suppressed=suppressed,
            )
