"""Tables of the audit that an earlier version of the server has made."""

from __future__ import annotations

from sqlalchemy import Connection, text

from tests.telemetry.audit.test_attempts import read
from trioserver.storage import Database
from trioserver.telemetry.audit import AuditEntry, AuditStore

ROWS = (
    AuditEntry(at=1.0, kind="attempt", outcome="accepted"),
    AuditEntry(at=2.0, kind="admin_action", outcome="done", action="block"),
)

_TO_VERSION_2 = (
    "ALTER TABLE trioserver_audit RENAME COLUMN action TO act",
    "UPDATE trioserver_audit SET kind = 'act' WHERE kind = 'admin_action'",
    "UPDATE trioserver_schema SET version = 2 WHERE component = 'audit'",
)


async def make_table_of_version_2(url: str) -> None:
    async with Database(url) as database:
        store = AuditStore(database)
        await store.prepare()
        await store.add([(str(number), row) for number, row in enumerate(ROWS)])

        def downgrade(connection: Connection) -> None:
            for statement in _TO_VERSION_2:
                connection.execute(text(statement))

        await database.run(downgrade)


async def test_actions_of_a_table_of_version_2_are_found_by_their_new_name(
    database_url: str,
) -> None:
    await make_table_of_version_2(database_url)
    (row,) = await read(database_url, kind="admin_action")
    assert (row.kind, row.action) == ("admin_action", "block")
    (other,) = await read(database_url, kind="attempt")
    assert (other.kind, other.action) == ("attempt", None)


async def test_a_table_of_version_2_is_brought_to_the_current_version(database_url: str) -> None:
    await make_table_of_version_2(database_url)
    async with Database(database_url) as database:
        store = AuditStore(database)
        await store.prepare()
        await store.add([("later", ROWS[1])])
    kinds = [(row.kind, row.action) for row in await read(database_url)]
    assert kinds == [("admin_action", "block"), ("admin_action", "block"), ("attempt", None)]
