"""Create the tables of an example, or upgrade those of an earlier version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trioserver import Database, MigrationStep

TIMEOUT: Final = 600.0
"""Seconds for an upgrade: a table with millions of rows may have to be rebuilt. In a call that is
made for a client, a database has much less."""


async def upgrade(database_url: str, component: str, steps: Sequence[MigrationStep]) -> None:
    """Apply the steps that the database does not have yet, all in one transaction.

    Raises `DatabaseUnavailableError`, and `SchemaTooNewError` if a newer version has made the
    tables.
    """
    async with Database(database_url, timeout=TIMEOUT) as database:
        await database.migrate(component, steps)
