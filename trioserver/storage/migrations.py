"""Tables of the server's own, made and altered as the server starts.

Each part of the server that keeps something has a name and a list of steps; the table
``trioserver_schema`` says how many of them have been done. A step is never changed once it has
been released: what is different is a step more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select, text, update

Step = Callable[[Connection], None]

_LOCK: Final = 7_283_455_011
"""Of PostgreSQL's advisory locks: two servers that start at once make the tables one by one."""

_SCHEMA: Final = Table(
    "trioserver_schema",
    MetaData(),
    Column("component", String, primary_key=True),
    Column("version", Integer, nullable=False),
)


class SchemaTooNew(ValueError):
    """A newer version of the server has made these tables; nothing was touched."""


def migrate(connection: Connection, component: str, steps: Sequence[Step]) -> None:
    """Do the steps that have not been done yet, all in the transaction of ``connection``.

    Raises `SchemaTooNew`.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    _SCHEMA.create(connection, checkfirst=True)
    mine = _SCHEMA.c.component == component
    version = connection.execute(select(_SCHEMA.c.version).where(mine)).scalar_one_or_none()
    if version is None:
        connection.execute(_SCHEMA.insert().values(component=component, version=0))
        version = 0
    if version > len(steps):
        raise SchemaTooNew(
            f"the database holds version {version} of the tables for {component}, and this server "
            f"knows {len(steps)}: start the newer server, or give another database"
        )
    for step in steps[version:]:
        step(connection)
    connection.execute(update(_SCHEMA).where(mine).values(version=len(steps)))
