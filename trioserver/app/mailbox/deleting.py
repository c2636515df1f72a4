"""Deletes messages from the database once they have been delivered, many at a time."""

from __future__ import annotations

from itertools import islice
from typing import Final

import trio

from trioserver.app.mailbox.store import RETRY, Store
from trioserver.app.mailbox.sweeping import log_unavailable

FLUSH_TIMEOUT: Final = 2.0
"""Seconds, when the mailbox ends, for deleting what has been delivered."""

_BATCH: Final = 500  # ids in one DELETE


class Deleter:
    """The ids of messages that have been delivered and are still in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[str, None] = {}
        self._has_work = trio.Event()

    def ids(self) -> set[str]:
        """Return a copy of the ids."""
        return set(self._ids)

    def add(self, id: str) -> None:
        """Delete a message as soon as that can be done. Never waits."""
        self._ids[id] = None
        self._has_work.set()

    async def run(self) -> None:
        """Delete messages until cancelled; then delete the rest, for at most `FLUSH_TIMEOUT`."""
        try:
            while True:
                while self._ids:
                    try:
                        await self._delete_some()
                    except Exception as error:  # no failure of a database ends the mailbox
                        log_unavailable(error)
                        await trio.sleep(RETRY)
                if self._has_work.is_set():  # else another task waits for the same event
                    self._has_work = trio.Event()
                await self._has_work.wait()
        finally:
            with trio.move_on_after(FLUSH_TIMEOUT, shield=True):
                await self._delete_the_rest()

    async def _delete_some(self) -> None:
        ids = list(islice(self._ids, _BATCH))
        await self._store.remove(ids)
        for id in ids:
            self._ids.pop(id, None)

    async def _delete_the_rest(self) -> None:
        try:
            while self._ids:
                await self._delete_some()
        except Exception as error:
            log_unavailable(error, undeleted=len(self._ids))
