"""The table of the audit, and all statements on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import attrs
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    case,
    column,
    delete,
    inspect,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from trioserver.storage.migrations import MigrationStep
from trioserver.telemetry.audit.entry import AuditEntry
from trioserver.telemetry.audit.query import AuditQuery

COMPONENT: Final = "audit"

_METADATA: Final = MetaData()

AUDIT: Final = Table(
    "trioserver_audit",
    _METADATA,
    # SQLite assigns ids only if the type of the key is INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key", String, nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("code", String),
    Column("address", String),
    Column("route", String),
    Column("user_id", String),
    Column("token_id", String),
    Column("token", String),
    Column("duration", Double),
    Column("connection", String),
    Column("action", String),
    Column("target", String),
    Column("affected", Integer),
    Column("method", String),
    Index("trioserver_audit_at", "at"),
    Index("trioserver_audit_user", "user_id", "id"),
    Index("trioserver_audit_address", "address", "id"),
    sqlite_autoincrement=True,  # ids are never reused, because pages refer to them
)


def _add_method(connection: Connection) -> None:
    """Add the column that the first version of the table did not have."""
    if "method" not in columns_of(connection):
        connection.execute(text(f"ALTER TABLE {AUDIT.name} ADD COLUMN method VARCHAR"))


def _rename_act(connection: Connection) -> None:
    """Rename the column and the kind that were named ``act`` in earlier versions of the table."""
    if "action" not in columns_of(connection):
        connection.execute(text(f"ALTER TABLE {AUDIT.name} RENAME COLUMN act TO action"))
    connection.execute(update(AUDIT).where(AUDIT.c.kind == "act").values(kind="admin_action"))


STEPS: Final[tuple[MigrationStep, ...]] = (_METADATA.create_all, _add_method, _rename_act)

COLUMNS: Final = frozenset(AUDIT.c.keys())

_FIELDS: Final = {
    field.name: AUDIT.c["user_id" if field.name == "user" else field.name]
    for field in attrs.fields(AuditEntry)
}


def exists(connection: Connection) -> bool:
    """Return whether the table exists."""
    return inspect(connection).has_table(AUDIT.name)


def add(connection: Connection, rows: Sequence[tuple[str, AuditEntry]]) -> None:
    """Add entries under their keys, and skip keys that exist.

    So a batch can be stored again if it is unknown whether it was committed.
    """
    insert: Any = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
    statement = insert(AUDIT).on_conflict_do_nothing(index_elements=["key"])
    connection.execute(statement, [_values(key, entry) for key, entry in rows])


def _values(key: str, entry: AuditEntry) -> dict[str, Any]:
    values: dict[str, Any] = {
        field.name: getattr(entry, name) for name, field in _FIELDS.items() if name != "id"
    }
    return values | {"key": key}


def columns_of(connection: Connection) -> frozenset[str]:
    """Return the names of the columns that the table has; earlier versions had others."""
    return frozenset(each["name"] for each in inspect(connection).get_columns(AUDIT.name))


def find(
    connection: Connection, query: AuditQuery, *, columns: Collection[str] = COLUMNS
) -> list[AuditEntry]:
    """Return the newest entries that match, newest first. ``columns``: see `columns_of`."""
    rows = connection.execute(_select(query, columns)).mappings()
    return [AuditEntry(**row) for row in rows]


def _select(query: AuditQuery, columns: Collection[str]) -> Select[Any]:
    fields: dict[str, ColumnElement[Any]] = {**_FIELDS}
    if "method" not in columns:
        fields["method"] = null()
    if "action" not in columns:
        fields["action"] = column("act")
        fields["kind"] = case((AUDIT.c.kind == "act", "admin_action"), else_=AUDIT.c.kind)
    statement = select(*(field.label(name) for name, field in fields.items()))
    for name in ("kind", "outcome", "code", "address", "route", "user", "method"):
        value = getattr(query, name)
        if isinstance(value, tuple):
            statement = statement.where(fields[name].in_(value))
        elif value is not None:
            statement = statement.where(fields[name] == value)
    if query.since is not None:
        statement = statement.where(AUDIT.c.at >= query.since)
    if query.until is not None:
        statement = statement.where(AUDIT.c.at < query.until)
    if query.before is not None:
        statement = statement.where(AUDIT.c.id < query.before)
    return statement.order_by(AUDIT.c.id.desc()).limit(query.limit)


def expire(connection: Connection, before: float, most: int) -> int:
    """Delete up to ``most`` entries older than ``before``. Return how many were deleted."""
    old = select(AUDIT.c.id).where(AUDIT.c.at < before).order_by(AUDIT.c.at).limit(most)
    return connection.execute(delete(AUDIT).where(AUDIT.c.id.in_(old))).rowcount
