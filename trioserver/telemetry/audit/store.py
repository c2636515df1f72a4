"""The audit in its database. It can be used without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit.entry import AuditEntry, in_ascii
from trioserver.telemetry.audit.query import AuditPage, AuditQuery

if TYPE_CHECKING:
    from sqlalchemy import Connection

EXPIRE_ROWS: Final = 1000
"""Rows that are deleted in one transaction. On SQLite it locks out other writers for some 10 ms."""


class AuditStore:
    """The table of the audit in a `Database`, which the caller opens.

    All methods raise `DatabaseUnavailableError`. The constructor raises `ImportError` with what to
    install.
    """

    def __init__(self, database: Database) -> None:
        # Here, so that the rest works without SQLAlchemy.
        from trioserver.telemetry.audit import table

        self._database = database
        self._table = table
        self._prepared = False

    async def prepare(self) -> None:
        """Create the table if it does not exist. Raises `SchemaTooNewError` as well."""
        await self._database.migrate(self._table.COMPONENT, self._table.STEPS)
        self._prepared = True

    async def check_writable(self) -> None:
        """Raise if rows cannot be written now. Raises `SchemaTooNewError` as well."""
        if not self._prepared:
            await self.prepare()
        await self._database.check_writable()

    async def exists(self) -> bool:
        """Return whether the database has the table of the audit."""
        return await self._database.read(self._table.exists)

    async def add(self, rows: Sequence[tuple[str, AuditEntry]]) -> None:
        """Store entries under their keys. Keys that are stored already are skipped."""
        from sqlalchemy.exc import DataError

        if not self._prepared:
            await self.prepare()
        try:
            await self._database.run(lambda connection: self._table.add(connection, rows))
        except DataError:  # the database has another encoding than UTF-8
            plain = [(key, in_ascii(entry)) for key, entry in rows]
            await self._database.run(lambda connection: self._table.add(connection, plain))
        except DatabaseUnavailableError as error:
            if error.cause == "missing_table":  # it was dropped
                self._prepared = False
            raise

    async def query(self, query: AuditQuery) -> AuditPage:
        """Return the newest entries that match."""
        prepared = self._prepared

        def find(connection: Connection) -> list[AuditEntry]:
            # A file that is only read may have a table of an older version.
            table = self._table
            columns = table.COLUMNS if prepared else table.columns_of(connection)
            found: list[AuditEntry] = table.find(connection, query, columns=columns)
            return found

        entries = await self._database.read(find)
        full = len(entries) == query.limit
        return AuditPage(entries=tuple(entries), next=entries[-1].id if full else None)

    async def expire(self, before: float) -> int:
        """Delete up to `EXPIRE_ROWS` entries older than ``before`` (seconds since the Unix epoch).

        Return how many were deleted.
        """
        return await self._database.run(
            lambda connection: self._table.expire(connection, before, EXPIRE_ROWS)
        )
