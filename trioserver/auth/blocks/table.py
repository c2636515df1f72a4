"""The table of the blocks, and all statements for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Double,
    MetaData,
    String,
    Table,
    any_,
    bindparam,
    delete,
    func,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from trioserver.auth.blocks.block import Block
from trioserver.storage.migrations import MigrationStep

COMPONENT: Final = "blocks"

_METADATA: Final = MetaData()

BLOCKS: Final = Table(
    "trioserver_blocks",
    _METADATA,
    Column("id", String, primary_key=True),
    Column("user_id", String),
    Column("token_id", String),
    Column("sid", String),
    Column("resource", String),
    Column("until", Double),
    Column("reason", String),
    Column("actor", String),
    Column("created_at", Double, nullable=False),
)

STEPS: Final[tuple[MigrationStep, ...]] = (_METADATA.create_all,)


def ids(connection: Connection, after: str, past: float, most: int) -> list[str]:
    """Return the next ids of blocks that had not ended at ``past``, in the database's order."""
    query = select(BLOCKS.c.id).where(BLOCKS.c.id > after, _not_over(past))
    return list(connection.execute(query.order_by(BLOCKS.c.id).limit(most)).scalars())


def load(connection: Connection, ids: Sequence[str]) -> tuple[list[Block], list[str]]:
    """Return the blocks with these ids, and the ids of rows that are not valid blocks."""
    blocks, wrong = [], []
    for row in connection.execute(select(*BLOCKS.c).where(_among(connection, ids))).all():
        try:
            blocks.append(_block(*row))
        except (ValueError, TypeError, AttributeError):  # another program wrote it
            wrong.append(row[0])
    return blocks, wrong


def add(connection: Connection, blocks: Sequence[Block]) -> None:
    """Store blocks, except those that are stored already."""
    insert: Any = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
    values = [_values(block) for block in blocks]
    connection.execute(insert(BLOCKS).on_conflict_do_nothing(), values)


def remove(connection: Connection, ids: Sequence[str], first: Sequence[Block] = ()) -> None:
    """Delete blocks. ``first`` are stored before, so that they cannot be stored later."""
    if first:
        add(connection, first)
    connection.execute(delete(BLOCKS).where(_among(connection, ids)))


def expire(connection: Connection, past: float, most: int) -> int:
    """Delete up to ``most`` blocks that had ended at ``past``, and return how many."""
    over = select(BLOCKS.c.id).where(BLOCKS.c.until <= past).limit(most)
    return connection.execute(delete(BLOCKS).where(BLOCKS.c.id.in_(over))).rowcount


def _not_over(past: float) -> ColumnElement[bool]:
    return or_(BLOCKS.c.until.is_(None), BLOCKS.c.until > past)


def _among(connection: Connection, ids: Sequence[str]) -> ColumnElement[bool]:
    """Pass any number of ids as one parameter: PostgreSQL takes 65,535 of them, SQLite fewer."""
    if connection.dialect.name == "postgresql":
        return BLOCKS.c.id == any_(bindparam("ids", list(ids), ARRAY(String)))
    each = func.json_each(bindparam("ids", json.dumps(ids))).table_valued("value")
    return BLOCKS.c.id.in_(select(each.c.value))


def _values(block: Block) -> dict[str, Any]:
    return {
        "id": block.id,
        "user_id": block.user,
        "token_id": block.token_id,
        "sid": block.sid,
        "resource": None if block.resource is None else json.dumps(dict(block.resource)),
        "until": block.until,
        "reason": block.reason,
        "actor": block.actor,
        "created_at": block.created_at,
    }


def _block(
    id: str,
    user: str | None,
    token_id: str | None,
    sid: str | None,
    resource: str | None,
    until: float | None,
    reason: str | None,
    actor: str | None,
    created_at: float,
) -> Block:
    return Block(
        id=id,
        user=user,
        token_id=token_id,
        sid=sid,
        resource=None if resource is None else json.loads(resource),
        until=until,
        reason=reason,
        actor=actor,
        created_at=created_at,
    )
