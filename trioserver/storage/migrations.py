"""Makes and alters the server's own tables when the server starts.

Each component that has tables has a name and a list of steps. The table ``trioserver_schema`` says
how many of them have been run. A step is never changed after it was released; append another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from trioserver.config.extras import needs

with needs("SQL needs SQLAlchemy: pip install 'trioserver[sql]'", "sqlalchemy"):
    from sqlalchemy import (
        Column,
        Connection,
        Integer,
        MetaData,
        String,
        Table,
        inspect,
        select,
        text,
        update,
    )

MigrationStep = Callable[[Connection], None]

_LOCK: Final = 7_283_455_011
"""An advisory lock of PostgreSQL: servers that start at once make the tables one after another."""

_SCHEMA: Final = Table(
    "trioserver_schema",
    MetaData(),
    Column("component", String, primary_key=True),
    Column("version", Integer, nullable=False),
)


class SchemaTooNewError(ValueError):
    """The tables were made by a newer version of the server. Nothing was changed."""


def is_current(connection: Connection, component: str, steps: Sequence[MigrationStep]) -> bool:
    """Whether all steps have been run. Only reads. Raises `SchemaTooNewError`."""
    if not inspect(connection).has_table(_SCHEMA.name):
        return False
    return _version(connection, component, steps) == len(steps)


def migrate(connection: Connection, component: str, steps: Sequence[MigrationStep]) -> None:
    """Run the steps that have not been run yet, all in the transaction of ``connection``.

    `Database.migrate` calls `is_current` first, and this only if something is missing. Raises
    `SchemaTooNewError`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    _SCHEMA.create(connection, checkfirst=True)
    version = _version(connection, component, steps)
    for step in steps[version or 0 :]:
        step(connection)
    if version is None:
        connection.execute(_SCHEMA.insert().values(component=component, version=len(steps)))
    elif version < len(steps):
        mine = _SCHEMA.c.component == component
        connection.execute(update(_SCHEMA).where(mine).values(version=len(steps)))


def _version(connection: Connection, component: str, steps: Sequence[MigrationStep]) -> int | None:
    """Return how many steps have been run, or None if the component has no tables yet."""
    mine = _SCHEMA.c.component == component
    version = connection.execute(select(_SCHEMA.c.version).where(mine)).scalar_one_or_none()
    if version is not None and version > len(steps):
        raise SchemaTooNewError(
            f"the database has version {version} of the tables for {component}, but this server "
            f"supports version {len(steps)}: start the newer server, or use another database"
        )
    return version
