"""Tables of the server's own, made and altered as the server starts.

Each part of the server that keeps something has a name and a list of steps; the table
``trioserver_schema`` says how many of them have been done. A step is never changed once it has
been released: what is different is a step more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

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
"""Of PostgreSQL's advisory locks: two servers that start at once make the tables one by one."""

_SCHEMA: Final = Table(
    "trioserver_schema",
    MetaData(),
    Column("component", String, primary_key=True),
    Column("version", Integer, nullable=False),
)


class SchemaTooNewError(ValueError):
    """A newer version of the server has made these tables; nothing was touched."""


def is_current(connection: Connection, component: str, steps: Sequence[MigrationStep]) -> bool:
    """Whether all steps have been done. Only reads. Raises `SchemaTooNewError`."""
    if not inspect(connection).has_table(_SCHEMA.name):
        return False
    return _version(connection, component, steps) == len(steps)


def migrate(connection: Connection, component: str, steps: Sequence[MigrationStep]) -> None:
    """Do the steps that have not been done yet, all in the transaction of ``connection``.

    Where all have been done it writes nothing. `Database.migrate` reads first, and begins a
    transaction only where there is something to do. Raises `SchemaTooNewError`.
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
    """How many steps have been done; None where the component has not been here yet."""
    mine = _SCHEMA.c.component == component
    version = connection.execute(select(_SCHEMA.c.version).where(mine)).scalar_one_or_none()
    if version is not None and version > len(steps):
        raise SchemaTooNewError(
            f"the database holds version {version} of the tables for {component}, and this server "
            f"knows {len(steps)}: start the newer server, or give another database"
        )
    return version
