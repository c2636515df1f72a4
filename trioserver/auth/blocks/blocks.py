"""The blocks of a server: in memory, where each authentication checks them, and in a database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import structlog
import trio

from protocol import Refusal
from trioserver.auth import User
from trioserver.auth.blocks.block import Block
from trioserver.auth.blocks.index import BlockIndex
from trioserver.auth.blocks.storing import Storing, Trouble
from trioserver.auth.blocks.withdrawals import Withdrawals
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage.retention import RetentionClock

log: Final = structlog.get_logger("trioserver")

MAX_BLOCKS: Final = 100_000
"""Some 50 MB of memory. An application that needs more should refuse users in its authorizer."""

_KEEP_ENDED: Final = 3600.0
"""Seconds that a block is kept after it has ended: a server may start with a wrong clock."""


_UNKNOWN: Final = 1.0
"""Seconds until the first read is tried again. All clients are refused until it succeeds."""

PAGE: Final = 5_000
"""Ids that are read in one go."""

LOADED_AT_ONCE: Final = 500
"""Blocks that are read in one go."""

EXPIRED_AT_ONCE: Final = 1_000
_PAUSE: Final = 0.1
"""Rows that are deleted in one transaction, and the pause before the next one in seconds."""

_TURN: Final = 0.002
"""Seconds for which work on many blocks may run without a checkpoint."""


class TooManyBlocksError(Exception):
    """There are `MAX_BLOCKS` blocks already, so that no block can be added."""


class Blocks:
    """The blocks in force. Without a database, they are lost when the process ends.

    With a database they survive a restart, and servers that share the database share them: `run`
    stores them, and reads those of other servers every ``refresh`` seconds. Until
    they have been read for the first time, all clients are refused with ``unavailable``. Later, a
    database that is down changes nothing.

    ``enforce`` is called with each new block, also one that another server has made: close what
    it fits. It is called again with a block that was over, by a clock that was wrong, and is in
    force again: a connection that it fits may have come in meanwhile.

    ``wall_clock`` gives seconds since the Unix epoch, and says which blocks are in force. Blocks
    are deleted by a `RetentionClock`. ``withdrawals`` are what is withdrawn once, and keeps nobody
    out who comes later.
    """

    def __init__(
        self,
        database: Database | None = None,
        *,
        refresh: float = 5.0,
        enforce: Callable[[Block], int] = lambda block: 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.withdrawals = Withdrawals()
        self._database = database
        self._refresh = refresh
        self._enforce = enforce
        self._wall_clock = wall_clock
        self._retention = RetentionClock(wall_clock)
        self._over: set[str] = set()
        """Ids of those blocks that were over at the last look."""
        self._index = BlockIndex()
        self._known = database is None
        self._trouble = Trouble()
        self._storing = None if database is None else Storing(database, self._trouble)
        self._since_read: set[str] = set()
        """Ids that a read which is under way may miss: they were stored after it had begun."""
        self._unreadable: set[str] = set()
        self._has_expired = False

    def __len__(self) -> int:
        return len(self._index)

    @property
    def all(self) -> tuple[Block, ...]:
        """The blocks in force, oldest first."""
        return self.page()

    def page(
        self, *, user: str | None = None, after: str | None = None, limit: int | None = None
    ) -> tuple[Block, ...]:
        """Return the blocks in force, oldest first, but no more than ``limit``.

        ``user``: only those that name this user. ``after``: only those behind the block with this
        id; none, if that has been lifted. A page costs what is on it, however many blocks there
        are.
        """
        last = None if after is None else self._index.get(after)
        if after is not None and last is None:
            return ()
        if user is None:
            found: Iterable[Block] = self._index.oldest_first(after=last)
        else:
            mine = sorted(self._index.naming({"user": user}), key=_age)
            found = (each for each in mine if last is None or _age(each) > _age(last))
        return tuple(islice(self._in_force(found), limit))

    def find(self, id: str | None, target: Mapping[str, Any]) -> list[Block]:
        """Return the blocks in force with this id that name exactly ``target``.

        None matches all ids, and an empty target all targets; one of the two has to be given.
        """
        if id is None:
            found: Iterable[Block] = self._index.naming(target)
        else:
            block = self._index.get(id)
            found = () if block is None else (block,)
        return [each for each in self._in_force(found) if target in ({}, each.target)]

    def _in_force(self, blocks: Iterable[Block]) -> Iterator[Block]:
        now = self._wall_clock()
        return (each for each in blocks if not each.is_over(now))

    @property
    def count(self) -> int:
        """The number of blocks in force. Takes constant time."""
        return len(self._index) - self._index.count_over(self._wall_clock())

    def is_stored(self, block: Block) -> bool:
        """Whether the block is in the database, so that it survives a restart of the server."""
        return self._storing is not None and self._storing.is_stored(block.id)

    async def check_health(self) -> None:
        """Raises `DatabaseUnavailableError` while all clients are refused, as no blocks were read,
        and while the database's own file is gone.

        Otherwise a database that is away changes nothing for clients.
        """
        await trio.lowlevel.checkpoint()
        if not self._known:
            raise DatabaseUnavailableError(
                "driver", f"Clients are refused until the blocks have been read: {self._trouble}"
            )
        if self._trouble.is_lost:
            raise DatabaseUnavailableError("location", str(self._trouble))

    # -------------------------------------------------------------------------- looking

    def check(
        self,
        user: User,
        resource: Mapping[str, str] | None = None,
        *,
        sid: str | None = None,
    ) -> None:
        """Raises `Refusal` for a user that is kept out.

        Blocks that name a resource count only where ``resource`` is given: once it is known to be
        the user's, so that no user learns of another's. The same holds for ``sid``.
        """
        if not self._known:
            raise Refusal("unavailable")
        if not self._index:
            return
        now = self._wall_clock()
        for block in self._index.candidates(user, resource or {}, sid):
            if resource is None and block.resource is not None:
                continue
            if not block.is_over(now) and block.fits(user, resource or {}, sid):
                raise block.refusal

    # -------------------------------------------------------------------------- changing

    async def add(self, block: Block) -> int:
        """Put a block in force at once, and return what `enforce` returned.

        It is stored in the background. This waits for that, but no longer than a second, and not
        at all while the database fails: `is_stored` says whether it is. Cancelling this leaves it
        in force, and it is stored all the same. Raises `TooManyBlocksError`.
        """
        if len(self._index) >= MAX_BLOCKS:
            for id in self._index.over(self._retention.now()):
                self._index.discard(id)
        if len(self._index) >= MAX_BLOCKS:
            raise TooManyBlocksError(f"there are {MAX_BLOCKS} blocks already: lift some")
        self._index.insert(block)
        if self._storing is not None:
            self._since_read.add(block.id)
            self._storing.put(block)
        disconnected = self._enforce(block)
        if self._storing is not None:
            await self._storing.wait(block)
        return disconnected

    async def remove(self, blocks: Iterable[Block]) -> int:
        """Lift blocks, and return how many there were.

        Raises `DatabaseUnavailableError`, and then lifts none.
        """
        found = [block for block in blocks if block.id in self._index]
        await trio.lowlevel.checkpoint()
        if found and self._storing is not None:
            await self._storing.remove(found)
        with trio.CancelScope(shield=True):  # they are gone from the database: none may stay here
            turns = _Turns()
            for block in found:
                self._index.discard(block.id)
                await turns.give()
        return len(found)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep in step with the database, and with the clock, until cancelled.

        Raises `SchemaTooNewError` at the start.
        """
        self._retention.start()
        if self._database is not None:
            await self._synchronize(first=True)
        async with trio.open_nursery() as nursery:
            if self._storing is not None:
                nursery.start_soon(self._storing.run)
            task_status.started()
            while True:
                await trio.sleep(self._refresh if self._known else min(self._refresh, _UNKNOWN))
                if self._database is None:
                    await self._look_at_the_clock()
                else:
                    await self._synchronize()

    # -------------------------------------------------------------------------- reading

    async def _synchronize(self, *, first: bool = False) -> None:
        assert self._database is not None
        try:
            if not self._known:
                await self._database.migrate(table().COMPONENT, table().STEPS)
            await self._read(self._database)
            self._trouble.succeeded("reading")
        except Exception as error:
            if first and isinstance(error, ValueError):  # `SchemaTooNewError`
                raise
            self._trouble.failed("reading", error, rejects_all=not self._known)
            return
        try:
            await self._expire(self._database)
            self._trouble.succeeded("deleting")
        except Exception as error:
            self._trouble.failed("deleting", error)

    async def _read(self, database: Database) -> None:
        """Find out what others have stored and lifted: all ids, and the rows of those not known.

        In pages, so that neither the database nor this process is held up by many.
        """
        assert self._storing is not None
        past = self._retention.now() - _KEEP_ENDED
        if self._index.over(past):
            self._has_expired = False
        self._since_read = self._storing.unstored
        seen: set[str] = set()
        after = ""
        while True:
            page = await database.read(partial(table().ids, after=after, past=past, most=PAGE))
            seen.update(page)
            new = [id for id in page if id not in self._index and id not in self._unreadable]
            for start in range(0, len(new), LOADED_AT_ONCE):
                await self._load(database, new[start : start + LOADED_AT_ONCE])
            if len(page) < PAGE:
                break
            after = page[-1]
        turns = _Turns()
        for id in list(self._index):
            if id not in seen and id not in self._since_read:
                self._index.discard(id)
            await turns.give()
        self._known = True
        await self._look_at_the_clock()

    async def _load(self, database: Database, ids: list[str]) -> None:
        blocks, wrong = await database.read(partial(table().load, ids=ids))
        for id in wrong:
            log.error("access_block_unreadable", id=id, hint="it is not enforced")
        self._unreadable.update(wrong)
        now, turns = self._wall_clock(), _Turns()
        new = [block for block in blocks if block.id not in self._index]
        for block in new:  # first in force, all of them
            self._index.insert(block)
        for block in new:
            if block.is_over(now):
                self._over.add(block.id)
            else:
                self._enforce(block)
            await turns.give()

    async def _look_at_the_clock(self) -> None:
        """Enforce once more what was over at the last look, and is in force now."""
        over = set(self._index.over(self._wall_clock()))
        again, self._over = self._over - over, over
        turns = _Turns()
        for id in again:
            block = self._index.get(id)
            if block is not None:
                self._enforce(block)
            await turns.give()

    async def _expire(self, database: Database) -> None:
        """Delete blocks from the database that ended long ago."""
        past = self._retention.now() - _KEEP_ENDED
        while not self._has_expired:
            count = await database.run(partial(table().expire, past=past, most=EXPIRED_AT_ONCE))
            self._has_expired = count < EXPIRED_AT_ONCE
            await trio.sleep(0 if self._has_expired else _PAUSE)


class _Turns:
    """Lets others have a turn when this task has held the loop for some milliseconds."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        if time.perf_counter() - self._since > _TURN:
            await trio.lowlevel.checkpoint()
            self._since = time.perf_counter()


def _age(block: Block) -> tuple[float, str]:
    return block.created_at, block.id


def table() -> Any:
    """The module of the table; without a database, no SQLAlchemy."""
    from trioserver.auth.blocks import table

    return table
