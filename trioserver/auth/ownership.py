"""Whose is it? Ownership looked up in a database, for all who wait in one query.

A look-up ends in one of three ways: it is theirs, it is not (or is not there, which looks the
same), or nobody can say at the moment. The last is ``unavailable``, never ``access_denied``: a
database that is down says nothing about anybody, and admits nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import structlog
import trio

from protocol import Refusal
from trioserver.auth.component import Component
from trioserver.auth.user import User
from trioserver.logs.tracebacks import name_of
from trioserver.storage import Batcher, BatchFailed, BatchOverflow, Database

if TYPE_CHECKING:
    from trioserver.storage.lookup import Key, Lookup

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class SQLOwner(Component):
    """An `Owner` that asks SQLite or PostgreSQL. Pass it as ``owner=`` of a route.

    Either ``table`` says where to look: a row with the path's id in ``id_column`` and the user's
    id in ``owner_column``. ``parameter`` names the path parameter, None means the only one. Or
    ``query`` is a SELECT with ``:user_id`` and the names of path parameters, which finds a row
    whose first value is not zero, false or NULL if the user may. The table is several times
    faster, the query is for all else: conditions, joins, an id that thousands may use.

    Ids are compared as text: "01" is not 1, and a UUID is written in lower case, with hyphens.
    An id column should have an index, and be of a type of integers, text or uuid to make use of it.

    ``denied`` is the message of an ``access_denied``; None has the look-up return False instead.
    ``timeout``, in seconds, bounds a look-up. ``max_waiting`` is how many may wait at once.

    A URL is opened by `run` and closed at its end; a `Database` is whoever's opened it. Raises
    `ValueError` and `ImportError` as `Database` does.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Database,
        *,
        table: str | None = None,
        id_column: str = "id",
        owner_column: str = "user_id",
        parameter: str | None = None,
        query: str | None = None,
        denied: str | None = None,
        timeout: float = 3.0,
        max_waiting: int = 20_000,
    ) -> None:
        self._opens = not isinstance(database, Database)
        self._database = (
            database if isinstance(database, Database) else Database(database, timeout=timeout)
        )
        # Here, and after the database: that one says what to install.
        from trioserver.storage.lookup import QueryLookup, TableLookup, plausible

        self._plausible = plausible
        self._lookup: Lookup
        self._parameters: tuple[str, ...] | None
        match table, query:
            case str(), None:
                self._lookup = TableLookup(table, id_column=id_column, owner_column=owner_column)
                self._parameters = None if parameter is None else (parameter,)
            case None, str():
                self._lookup = QueryLookup(query)
                self._parameters = self._lookup.parameters
            case _:
                raise ValueError("SQLOwner takes one of the two: table= or query=")
        self._denied = denied
        # A little less than its callers wait, so that they hear the reason.
        self._read_timeout = 0.9 * timeout
        self._trouble: str | None = None
        # The database's own deadline comes first, even in a busy process: it is what gets logged.
        self._batcher: Batcher[Key, bool] = Batcher(
            self._load, timeout=timeout, load_timeout=2 * timeout, max_waiting=max_waiting
        )

    async def __call__(self, user: User, resource: Mapping[str, str]) -> bool:
        """Raises `Refusal`: ``unavailable``, or ``access_denied`` if ``denied`` was given. Raises
        `RuntimeError` while `run` is not running. Cancelling it leaves nothing behind."""
        key = (user.id, *self._values(resource))
        try:
            owns = all(map(self._plausible, key)) and await self._batcher.get(key)
        except (trio.TooSlowError, BatchFailed, BatchOverflow) as error:
            raise Refusal("unavailable") from error
        if not owns and self._denied is not None:
            raise Refusal("access_denied", self._denied)
        return owns

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers look-ups until it is cancelled. Starts with the database down, too; only an
        SQLite file in an impossible place stops it, with `DatabaseUnavailable`."""
        async with self._database if self._opens else nullcontext():
            await self._batcher.run(task_status=task_status)

    async def check_health(self) -> None:
        """Raises while the database does not answer."""
        await self._database.check_health()

    def _values(self, resource: Mapping[str, str]) -> list[str]:
        try:
            if self._parameters is not None:
                return [resource[name] for name in self._parameters]
            (only,) = resource.values()
        except (KeyError, ValueError):
            raise LookupError(
                f"the look-up needs {self._parameters or 'one path parameter, or parameter='}, "
                f"the route has {tuple(resource)}"
            ) from None
        return [only]

    async def _load(self, keys: Sequence[Key]) -> Mapping[Key, bool]:
        try:
            answers = await self._database.read(
                lambda connection: self._lookup(connection, keys), timeout=self._read_timeout
            )
        except Exception as error:
            self._note(name_of(error))
            raise
        self._note(None)
        return answers

    def _note(self, trouble: str | None) -> None:
        """One line when it begins and one when it ends, however many look-ups fail meanwhile."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("ownership_available", database=repr(self._database))
        else:
            _log.error("ownership_unavailable", database=repr(self._database), reason=trouble)
