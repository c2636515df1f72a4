"""Stores blocks in the database, in the background and in batches.

A block is in force before it is stored, so a database that hangs delays nothing: blocks gather
here, and one task writes them. A block that the database does not accept does not prevent others
from being stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

import structlog
import trio

from trioserver.auth.blocks.block import Block
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage.errors import Cause
from trioserver.storage.turn import Turn

log: Final = structlog.get_logger("trioserver")

BATCH: Final = 200
"""Blocks in one transaction."""

ANSWER_WITHIN: Final = 1.0
"""Seconds that a caller waits until the block is stored. With a higher value
a slow database is more often reported as having stored it; with a lower one `block` returns sooner
while the database hangs."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts to write, doubled each time."""

_FLUSH_TIMEOUT: Final = 2.0
"""Seconds, when the server ends, for storing what is left."""


_LOST: Final[frozenset[Cause]] = frozenset({"corrupt", "file_missing", "not_a_database"})


class Trouble:
    """Which of reading, storing and deleting fails. Logs the first failure, and the end of all."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lost: set[str] = set()

    @property
    def is_lost(self) -> bool:
        """Whether the database's own file is missing or damaged. Only an operator can mend that."""
        return bool(self._lost)

    def __str__(self) -> str:
        return "; ".join(self._texts.values()) or "they have not been read yet"

    def failed(self, what: str, error: Exception, *, rejects_all: bool = False) -> None:
        text = str(error) if isinstance(error, DatabaseUnavailableError) else type(error).__name__
        if not self._texts:
            log.warning("access_blocks_unavailable", error=text, rejects_all=rejects_all)
        self._texts[what] = text
        self._lost.discard(what)
        if isinstance(error, DatabaseUnavailableError) and error.cause in _LOST:
            self._lost.add(what)

    def succeeded(self, what: str) -> None:
        self._lost.discard(what)
        if self._texts.pop(what, None) is not None and not self._texts:
            log.info("access_blocks_available")


class Storing:
    """Stores blocks that are `put`. `run` does the work."""

    def __init__(self, database: Database, trouble: Trouble) -> None:
        from trioserver.auth.blocks import table  # here: without a database, no SQLAlchemy

        self._database = database
        self._table = table
        self._trouble = trouble
        self._waiting: dict[str, Block] = {}
        self._doubtful: set[str] = set()
        """Ids of blocks that were sent to the database, with an unknown result."""
        self._refused: set[str] = set()
        """Ids of blocks that the database does not accept."""
        self._lock = trio.Lock()
        self._work = trio.Event()
        self._attempted = trio.Event()
        self._running = False
        self._failures = 0

    @property
    def unstored(self) -> set[str]:
        """The ids of all blocks that are only in memory."""
        return {*self._waiting, *self._refused}

    def is_stored(self, id: str) -> bool:
        """Whether it survives a restart."""
        return id not in self._waiting and id not in self._refused

    def put(self, block: Block) -> None:
        """Store a block as soon as possible. Never waits."""
        self._waiting[block.id] = block
        self._work.set()

    async def wait(self, block: Block) -> None:
        """Wait until a block is stored, at most `ANSWER_WITHIN`, and not while storing fails."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(ANSWER_WITHIN):
            while block.id in self._waiting and self._running and not self._failures:
                await self._attempted.wait()

    async def remove(self, blocks: Sequence[Block]) -> None:
        """Delete all of these blocks. Raises `DatabaseUnavailableError`, and then deletes none."""
        async with Turn(self._lock, self._database.timeout):
            # A block with an unknown result must not be stored after its deletion.
            first = [block for block in blocks if block.id in self._doubtful]
            ids = [block.id for block in blocks]
            await self._database.run(partial(self._table.remove, ids=ids, first=first))
            self.forget(ids)

    def forget(self, ids: Iterable[str]) -> None:
        """Do not store these blocks any more."""
        for id in ids:
            self._waiting.pop(id, None)
            self._doubtful.discard(id)
            self._refused.discard(id)

    async def run(self) -> None:
        """Store blocks until cancelled; then store the rest, for at most `_FLUSH_TIMEOUT`."""
        self._running = True
        try:
            while True:
                await self._work.wait()
                await self._store_some()
                if self._failures:
                    pause = _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 20)
                    await trio.sleep(min(_LONGEST_PAUSE, pause))
        finally:
            self._running = False
            with trio.move_on_after(_FLUSH_TIMEOUT, shield=True):
                await self._store_what_is_left()

    async def _store_what_is_left(self) -> None:
        self._failures = 0
        while self._waiting and not self._failures:
            await self._store_some()

    async def _store_some(self) -> None:
        async with self._lock:
            batch = list(islice(self._waiting.values(), BATCH))
            try:
                if batch:
                    await self._write(batch)
            except DatabaseUnavailableError as error:
                self._failures += 1
                self._trouble.failed("storing", error)
            else:
                self._failures = 0
                self._trouble.succeeded("storing")
            finally:
                self._attempted.set()
                self._attempted = trio.Event()
        if not self._waiting:
            self._work = trio.Event()

    async def _write(self, batch: list[Block]) -> None:
        ids = [block.id for block in batch]
        self._doubtful.update(ids)
        try:
            await self._database.run(partial(self._table.add, blocks=batch))
        except DatabaseUnavailableError:
            raise
        except Exception as error:  # one of them has letters that the database's encoding lacks
            self._doubtful.difference_update(ids)
            for part in _halves(batch):
                await self._write(part)
            if len(batch) == 1:
                self._give_up(batch[0], error)
        else:
            self.forget(ids)

    def _give_up(self, block: Block, error: Exception) -> None:
        self._waiting.pop(block.id, None)
        self._refused.add(block.id)
        log.error(
            "access_block_not_stored",
            id=block.id,
            error=type(getattr(error, "orig", error)).__name__,
            hint="this server enforces it until it stops; other servers do not",
        )


def _halves(batch: list[Block]) -> Iterator[list[Block]]:
    half = len(batch) // 2
    if half:
        yield batch[:half]
        yield batch[half:]
