"""The audit in its database: what can be asked of it, without a server too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit.entry import AuditEntry, plainer
from trioserver.telemetry.audit.query import AuditPage, AuditQuery

if TYPE_CHECKING:
    from sqlalchemy import Connection

EXPIRE_ROWS: Final = 1000
"""Deleted in one transaction. On SQLite it holds the one writer's lock, for some 10 ms."""


class AuditStore:
    """The table of the audit in a `Database`, which somebody else opens.

    All methods raise `DatabaseUnavailableError`. The constructor raises `ImportError` with what to
    install.
    """

    def __init__(self, database: Database) -> None:
        from trioserver.telemetry.audit import (
            table,  # here, so that the rest works without SQLAlchemy
        )

        self._database = database
        self._table = table
        self._prepared = False

    async def prepare(self) -> None:
        """Make the table if it is not there. Raises `SchemaTooNewError` too."""
        await self._database.migrate(self._table.COMPONENT, self._table.STEPS)
        self._prepared = True

    async def check_writable(self) -> None:
        """Raises if rows cannot be written now. Raises `SchemaTooNewError` too."""
        if not self._prepared:
            await self.prepare()
        await self._database.check_writable()

    async def exists(self) -> bool:
        """Whether the database has an audit at all."""
        return await self._database.read(self._table.exists)

    async def add(self, rows: Sequence[tuple[str, AuditEntry]]) -> None:
        """Store entries under their keys; those that are stored already are left as they are."""
        from sqlalchemy.exc import DataError

        if not self._prepared:
            await self.prepare()
        try:
            await self._database.run(lambda connection: self._table.add(connection, rows))
        except DataError:  # the database has another encoding
            plain = [(key, plainer(entry)) for key, entry in rows]
            await self._database.run(lambda connection: self._table.add(connection, plain))
        except DatabaseUnavailableError as error:
            if error.cause == "missing_table":  # somebody has dropped it
                self._prepared = False
            raise

    async def query(self, query: AuditQuery) -> AuditPage:
        """The newest entries that fit."""
        prepared = self._prepared

        def find(connection: Connection) -> list[AuditEntry]:
            # Nobody has altered the table of a file that is only read.
            with_method = prepared or self._table.has_method(connection)
            found: list[AuditEntry] = self._table.find(connection, query, with_method=with_method)
            return found

        entries = await self._database.read(find)
        full = len(entries) == query.limit
        return AuditPage(entries=tuple(entries), next=entries[-1].id if full else None)

    async def expire(self, before: float) -> int:
        """Delete some entries older than ``before``, in seconds since the epoch; how many."""
        return await self._database.run(
            lambda connection: self._table.expire(connection, before, EXPIRE_ROWS)
        )
