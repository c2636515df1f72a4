"""`trioserver audit`: reads what servers have recorded, and makes nothing up."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.conftest import Invoke
from trioserver import AdminAction, AuditConfig
from trioserver.storage import Database
from trioserver.telemetry.audit import Auditor

NOW = 1_700_000_000.0


async def record(url: str) -> None:
    """An audit with four acts, an hour apart."""
    now = NOW
    config = AuditConfig(database=url, flush_interval=0.01)
    async with Database(url) as database, trio.open_nursery() as nursery:
        auditor = Auditor(database, config, wall_clock=lambda: now)
        await nursery.start(auditor.run)
        for number in range(4):
            now = NOW + number * 3600
            auditor.on_admin_action(
                AdminAction(
                    actor="root" if number else "\x1b[31meve",
                    name="disconnect",
                    target={"user": "alice"},
                    affected=number,
                    code="forbidden" if number == 3 else None,
                    remote="203.0.113.7:1",
                    path="/disconnect",
                )
            )
        nursery.cancel_scope.cancel()


@pytest.fixture
def recorded(database_url: str) -> str:
    """The URL of an audit."""
    trio.run(record, database_url)
    return database_url


def rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_rows_are_printed_newest_first(invoke: Invoke, recorded: str) -> None:
    result = invoke("audit", "--database", recorded, "--json")
    assert result.exit_code == 0
    newest, *_, oldest = rows(result.stdout)
    assert newest["at"] == "2023-11-15T01:13:20.000Z"
    assert (newest["outcome"], newest["code"], newest["user"]) == ("refused", "forbidden", "root")
    assert newest["target"] == {"user": "alice"}
    assert newest["address"] == "203.0.113.7"
    assert oldest["affected"] == 0


def test_the_database_comes_from_the_configuration(
    invoke: Invoke, recorded: str, tmp_path: Path
) -> None:
    result = invoke("audit", "--json", env={"TRIOSERVER_AUDIT_DATABASE": recorded})
    assert len(rows(result.stdout)) == 4
    file = tmp_path / "server.toml"
    file.write_text(f"[trioserver.audit]\ndatabase = {json.dumps(recorded)}\n")
    assert len(rows(invoke("audit", "--config", file, "--json").stdout)) == 4


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--since", "2023-11-15T00:13:20Z"], [3, 2]),
        (["--until", "2023-11-14T23:13:20"], [0]),
        (["--since", "1h"], []),
        (["--until", "1h"], [3, 2, 1, 0]),
        (["--user", "root", "--outcome", "done"], [2, 1]),
        (["--code", "forbidden"], [3]),
        (["--route", "/disconnect", "--address", "203.0.113.7", "--limit", "1"], [3]),
        (["--address", "203.0.113.8"], []),
        (["--kind", "attempt"], []),
        (["--before", "2"], [0]),
    ],
)
def test_filters(invoke: Invoke, recorded: str, filters: list[str], found: list[int]) -> None:
    result = invoke("audit", "--database", recorded, "--json", *filters)
    assert result.exit_code == 0
    assert [row["affected"] for row in rows(result.stdout)] == found


def test_people_get_a_table_that_cannot_command_their_terminal(
    invoke: Invoke, recorded: str
) -> None:
    result = invoke("audit", "--database", recorded, "--limit", "4", env={"COLUMNS": "200"})
    assert "disconnect user=alice" in result.stdout
    assert "refused: forbidden (3)" in result.stdout
    assert "\x1b" not in result.stdout
    assert "there may be more; add --before " in result.stderr


def test_what_is_not_there_is_said_and_nothing_is_made(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("audit")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "TRIOSERVER_AUDIT_DATABASE" in result.stderr
    missing = tmp_path / "no.db"
    assert invoke("audit", "--database", missing).exit_code == 3
    assert invoke("audit", "--database", f"sqlite:///{missing}").exit_code == 3
    assert not missing.exists()
    missing.touch()
    result = invoke("audit", "--database", missing)
    assert (result.exit_code, "the database contains no audit" in result.stderr) == (3, True)


@pytest.fixture
def archived() -> Iterator[Path]:
    """An audit in a directory where nobody may write."""
    directory = Path(tempfile.mkdtemp(prefix="trioserver-archive-", dir="/tmp"))
    path = directory / "old audit.db"
    trio.run(record, str(path))
    path.chmod(0o444)
    directory.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)  # root may write anywhere
    yield path
    os.seteuid(os.getuid())
    directory.chmod(0o755)
    shutil.rmtree(directory)


def test_an_archived_file_that_nobody_may_write_to_is_read(invoke: Invoke, archived: Path) -> None:
    for url in (archived, f"sqlite:///{archived}"):
        result = invoke("audit", "--database", url, "--json")
        assert result.exit_code == 0
        assert len(rows(result.stdout)) == 4
    assert [path.name for path in archived.parent.iterdir()] == [archived.name]


def test_reading_leaves_no_file_beside_the_database(invoke: Invoke, tmp_path: Path) -> None:
    trio.run(record, str(tmp_path / "audit.db"))
    assert len(rows(invoke("audit", "--database", tmp_path / "audit.db", "--json").stdout)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["audit.db"]


def test_a_database_that_does_not_answer_is_exit_code_1_without_its_password(
    invoke: Invoke, tmp_path: Path
) -> None:
    url = f"postgresql://root:hunter2secret@/x?host={tmp_path}"
    result = invoke("audit", "--database", url)
    assert result.exit_code == 1
    assert "hunter2secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--since", "yesterday"], 2),
        (["--limit", "0"], 2),
        (["--before", str(2**63)], 2),
        (["--kind", "x"], 2),
        (["--database", "mysql://root:hunter2secret@x/y"], 3),
    ],
)
def test_a_wrong_command_line_is_told(invoke: Invoke, arguments: list[str], code: int) -> None:
    result = invoke("audit", *arguments)
    assert result.exit_code == code
    assert "hunter2secret" not in result.output
