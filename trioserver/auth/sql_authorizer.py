"""Authorization by a look-up in a database: one query for all look-ups that wait.

A look-up has one of three results. The resource is the user's; it is not, or does not exist, which
looks the same; or the database did not answer. The last is ``unavailable``, never
``access_denied``: a database that is down says nothing about a user, and admits none.
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
from trioserver.storage import Batcher, BatchFailedError, BatchOverflowError, Database

if TYPE_CHECKING:
    from trioserver.storage.lookup import Key, QueryLookup, TableLookup

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("trioserver")


class SQLAuthorizer(Component):
    """An `Authorizer` that asks SQLite or PostgreSQL. Pass it as ``authorize=`` of a route.

    Give either a table or a query:

    - ``table``: the user may use the resource if there is a row with the path's id in
      ``id_column`` and the user's id in ``owner_column``. ``parameter`` names the path parameter;
      None means the only one. This is several times faster than a query.
    - ``query``: a SELECT with ``:user_id`` and the names of path parameters. The user may use the
      resource if the first value of the first row is not zero, false or NULL. It can express
      conditions and joins, and suits an id that thousands of users may use.

    Ids are compared as text: "01" is not 1, and a UUID is written in lower case, with hyphens. The
    id column needs an index, which is used if the column's type is an integer, text or uuid.

    ``denied`` is the message of the error ``access_denied``; if None, the default message is sent.
    ``timeout``, in seconds, bounds a look-up. ``max_waiting`` bounds how many wait at once.

    If ``database`` is a URL, `run` opens and closes it; a `Database` is opened by its owner. Raises
    `ValueError` and `ImportError`, as `Database` does.
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
        self._lookup: TableLookup | QueryLookup
        self._parameters: tuple[str, ...] | None
        match table, query:
            case str(), None:
                self._lookup = TableLookup(table, id_column=id_column, owner_column=owner_column)
                self._parameters = None if parameter is None else (parameter,)
            case None, str():
                self._lookup = QueryLookup(query)
                self._parameters = self._lookup.parameters
            case _:
                raise ValueError("give either table= or query=, not both")
        self._denied = denied
        # A little less than its callers wait, so that they get the reason.
        self._read_timeout = 0.9 * timeout
        self._trouble: str | None = None
        # The database's own deadline comes first, even in a busy process: it is what gets logged.
        self._batcher: Batcher[Key, bool] = Batcher(
            self._load, timeout=timeout, load_timeout=2 * timeout, max_waiting=max_waiting
        )

    async def __call__(self, user: User, resource: Mapping[str, str]) -> bool:
        """Return whether the user may use the resource.

        Raises `Refusal`: ``unavailable``, or ``access_denied`` if ``denied`` was given. Raises
        `RuntimeError` while `run` is not running. Cancelling it leaves nothing behind.
        """
        key = (user.id, *self._values(resource))
        try:
            allowed = all(map(self._plausible, key)) and await self._batcher.get(key)
        except (trio.TooSlowError, BatchFailedError, BatchOverflowError) as error:
            raise Refusal("unavailable") from error
        if not allowed and self._denied is not None:
            raise Refusal("access_denied", self._denied)
        return allowed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer look-ups until cancelled. It also starts while the database is down.

        Raises `DatabaseUnavailableError` if the file of an SQLite database cannot be where it
        should be.
        """
        async with self._database if self._opens else nullcontext():
            await self._batcher.run(task_status=task_status)

    async def check_health(self) -> None:
        """Raise while the database does not answer, or the table or query cannot be read."""
        await self._database.check_health()
        await self._database.read(self._lookup.check, timeout=self._read_timeout)

    def _values(self, resource: Mapping[str, str]) -> list[str]:
        try:
            if self._parameters is not None:
                return [resource[name] for name in self._parameters]
            (only,) = resource.values()
        except (KeyError, ValueError):
            raise LookupError(
                f"SQLAuthorizer needs {self._parameters or 'one path parameter, or parameter='}, "
                f"but the route's path has the parameters {tuple(resource)}"
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
        """Log one line when look-ups begin to fail, and one when they succeed again."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("authorizer_available", database=repr(self._database))
        else:
            _log.error("authorizer_unavailable", database=repr(self._database), reason=trouble)
