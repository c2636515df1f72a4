"""The table of the blocks, and every statement on it."""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import Column, Connection, Double, MetaData, String, Table, delete, select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

from trioserver.blocks.block import Block
from trioserver.storage.migrations import Step

COMPONENT: Final = "blocks"

_METADATA: Final = MetaData()

BLOCKS: Final = Table(
    "trioserver_blocks",
    _METADATA,
    Column("id", String, primary_key=True),
    Column("user_id", String),
    Column("token_id", String),
    Column("session", String),
    Column("resource", String),
    Column("until", Double),
    Column("reason", String),
    Column("actor", String),
    Column("created_at", Double, nullable=False),
)

STEPS: Final[tuple[Step, ...]] = (_METADATA.create_all,)


def load(connection: Connection) -> list[Block]:
    """All of them."""
    return [_block(row) for row in connection.execute(select(BLOCKS)).mappings()]


def add(connection: Connection, block: Block) -> None:
    """Store one; where it is stored already, nothing changes."""
    insert: Any = insert_postgresql if connection.dialect.name == "postgresql" else insert_sqlite
    resource = None if block.resource is None else json.dumps(dict(block.resource))
    values = {
        "id": block.id,
        "user_id": block.user,
        "token_id": block.token_id,
        "session": block.session,
        "resource": resource,
        "until": block.until,
        "reason": block.reason,
        "actor": block.actor,
        "created_at": block.created_at,
    }
    connection.execute(insert(BLOCKS).values(values).on_conflict_do_nothing())


def remove(connection: Connection, ids: list[str]) -> None:
    """Delete those that are there."""
    connection.execute(delete(BLOCKS).where(BLOCKS.c.id.in_(ids)))


def expire(connection: Connection, now: float) -> None:
    """Delete those whose time has passed."""
    connection.execute(delete(BLOCKS).where(BLOCKS.c.until < now))


def _block(row: Any) -> Block:
    values = dict(row)
    values["user"] = values.pop("user_id")
    if values["resource"] is not None:
        values["resource"] = json.loads(values["resource"])
    return Block(**values)
