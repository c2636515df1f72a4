"""The blocks of a server: in memory, where each authentication looks, and in the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, TypeAlias

import structlog
import trio

from protocol import Refusal
from trioserver.auth import User
from trioserver.blocks.block import Block
from trioserver.blocks.withdrawals import Withdrawals
from trioserver.storage import Database, DatabaseUnavailable
from trioserver.storage.retention import RetentionClock

log: Final = structlog.get_logger("trioserver")

MAX_BLOCKS: Final = 100_000
"""Some 50 MB of memory. Who needs more has a user database, where it belongs."""

_EXPIRED_KEPT: Final = 3600.0
"""Seconds for which a block is kept beyond its time: a server may start with a wrong clock."""


class TooManyBlocks(Exception):
    """There are `MAX_BLOCKS` already."""


_Key: TypeAlias = tuple[str, str, str]


def _key(block: Block) -> _Key:
    """One thing that whoever it fits has."""
    if block.user is not None:
        return ("user", "", block.user)
    if block.token_id is not None:
        return ("token_id", "", block.token_id)
    if block.session is not None:
        return ("session", "", block.session)
    return ("resource", *min((block.resource or {}).items()))


def _keys(user: User, resource: Mapping[str, str], session: str | None) -> Iterator[_Key]:
    """Under which the blocks are that may fit."""
    yield ("user", "", user.id)
    if user.token_id is not None:
        yield ("token_id", "", user.token_id)
    claim = user.claims.get("sid")
    for each in {claim if isinstance(claim, str) else None, session} - {None}:
        yield ("session", "", str(each))
    for name, value in resource.items():
        yield ("resource", name, value)


class Blocks:
    """Who is kept out. Without a database, for as long as the process lives.

    With one, they survive a restart, and servers that share it share them: `run` reads them every
    ``refresh`` seconds. Before they have been read for the first time nobody is let in, which is
    ``unavailable``; later, a database that is away changes nothing.

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
        self._by_id: dict[str, Block] = {}
        self._index: dict[_Key, list[Block]] = {}
        self._unstored: dict[str, Block] = {}
        self._known = database is None
        self._trouble: str | None = None
        self._lock = trio.Lock()
        if database is not None:
            from trioserver.blocks import table  # here: without a database, no SQLAlchemy

            self._table = table

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def all(self) -> tuple[Block, ...]:
        """Those in force, oldest first."""
        now = self._wall_clock()
        blocks = [block for block in self._by_id.values() if not block.is_over(now)]
        return tuple(sorted(blocks, key=lambda block: (block.created_at, block.id)))

    def is_stored(self, block: Block) -> bool:
        """Whether it survives a restart of the server."""
        return self._database is not None and block.id not in self._unstored

    async def check_health(self) -> None:
        """Raises `DatabaseUnavailable` while nobody is let in, because blocks were never read.

        Later on, a database that is away changes nothing for clients.
        """
        await trio.lowlevel.checkpoint()
        if not self._known:
            raise DatabaseUnavailable(
                "driver", f"Nobody is let in before the blocks have been read: {self._trouble}"
            )

    # -------------------------------------------------------------------------- looking

    def check(
        self,
        user: User,
        resource: Mapping[str, str] | None = None,
        *,
        session: str | None = None,
    ) -> None:
        """Raises `Refusal` for a user that is kept out.

        Blocks that name a resource count only where ``resource`` is given: once it is known to be
        the user's, so that nobody learns of somebody else's. So with the ``session``.
        """
        if not self._known:
            raise Refusal("unavailable")
        if not self._by_id:
            return
        now = self._wall_clock()
        for key in _keys(user, resource or {}, session):
            for block in self._index.get(key, ()):
                if resource is None and block.resource is not None:
                    continue
                if not block.is_over(now) and block.fits(user, resource or {}, session):
                    raise block.refusal

    # -------------------------------------------------------------------------- changing

    async def add(self, block: Block) -> int:
        """Put a block in force, at once, and store it; how many `enforce` has met.

        Where the database is away it is in force all the same, and stored as soon as it can be:
        see `is_stored`. Cancelling this leaves it in force. Raises `TooManyBlocks`.
        """
        if len(self._by_id) >= MAX_BLOCKS:
            past = self._retention.now()
            self._set([block for block in self._by_id.values() if not block.is_over(past)])
        if len(self._by_id) >= MAX_BLOCKS:
            raise TooManyBlocks(f"there are {MAX_BLOCKS} blocks already: lift some")
        self._insert(block)
        if self._database is not None:
            self._unstored[block.id] = block
        met = self._enforce(block)
        try:
            async with self._lock:
                await self._store()
        except DatabaseUnavailable as error:
            self._failed(error)
        return met

    async def remove(self, blocks: Iterable[Block]) -> int:
        """Lift blocks; how many were there. Raises `DatabaseUnavailable`, and then lifts none."""
        ids = [block.id for block in blocks if block.id in self._by_id]
        async with self._lock:
            if ids and self._database is not None:
                if any(id in self._unstored for id in ids):
                    await self._store()  # it may be half-way there, and must not come after
                await self._database.run(partial(self._table.remove, ids=ids))
            self._set([block for block in self._by_id.values() if block.id not in ids])
        return len(ids)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep in step with the database, and with the clock, until cancelled.

        Raises `SchemaTooNew` at the start.
        """
        self._retention.start()
        if self._database is not None:
            await self._synchronize(first=True)
        task_status.started()
        while True:
            await trio.sleep(self._refresh)
            if self._database is None:
                self._enforce_new(known=set(self._by_id))
            else:
                await self._synchronize()

    async def _synchronize(self, *, first: bool = False) -> None:
        assert self._database is not None
        try:
            async with self._lock:
                if not self._known:
                    await self._database.migrate(self._table.COMPONENT, self._table.STEPS)
                await self._store()
                await self._read(self._database)
            self._succeeded()
        except DatabaseUnavailable as error:
            self._failed(error)
        except Exception as error:
            if first:
                raise
            self._failed(error)

    async def _store(self) -> None:
        """What could not be stored before. The lock is held."""
        for block in list(self._unstored.values()):
            assert self._database is not None
            await self._database.run(partial(self._table.add, block=block))
            self._unstored.pop(block.id, None)

    async def _read(self, database: Database) -> None:
        """What is stored now. The lock is held: nothing is stored or deleted in between."""
        stored = await database.read(self._table.load)
        past = self._retention.now() - _EXPIRED_KEPT
        if any(block.is_over(past) for block in stored):
            await database.run(partial(self._table.expire, now=past))
        current = [block for block in stored if not block.is_over(past)]
        ids = {block.id for block in current}
        added = [block for block in self._unstored.values() if block.id not in ids]
        known = set(self._by_id)
        self._set([*current, *added])
        self._known = True
        self._enforce_new(known)

    def _enforce_new(self, known: set[str]) -> None:
        """Enforce the blocks that are in force now, and are not ``known`` or were over before."""
        now = self._wall_clock()
        over = {id for id, block in self._by_id.items() if block.is_over(now)}
        new = (self._by_id.keys() - known - over) | (self._by_id.keys() & self._over - over)
        self._over = over
        for id in new:
            self._enforce(self._by_id[id])

    def _set(self, blocks: Iterable[Block]) -> None:
        self._by_id, self._index = {}, {}
        for block in blocks:
            self._insert(block)

    def _insert(self, block: Block) -> None:
        self._by_id[block.id] = block
        self._index.setdefault(_key(block), []).append(block)

    # -------------------------------------------------------------------------- telling

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, DatabaseUnavailable) else type(error).__name__
        if self._trouble is None:
            log.warning("blocks_unavailable", error=text, nobody_gets_in=not self._known)
        self._trouble = text

    def _succeeded(self) -> None:
        if self._trouble is not None:
            log.info("blocks_available", blocks=len(self._by_id))
        self._trouble = None
