"""What is made for the server is for its user only, and what others may read is told of."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from trioserver.config.private_files import make_directory
from trioserver.storage import Database


@pytest.fixture(autouse=True, params=[0o022, 0o000], ids=["umask 022", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_a_database_and_the_files_beside_it_are_for_this_user_only(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with Database(tmp_path / "own.db") as database:
            await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
            assert modes(tmp_path) == {"own.db": 0o600, "own.db-wal": 0o600, "own.db-shm": 0o600}
    assert logs == []


async def test_a_database_that_is_there_keeps_its_mode_and_is_told_of_if_it_is_open(
    tmp_path: Path,
) -> None:
    path = tmp_path / "given.db"
    path.touch()
    path.chmod(0o664)
    with capture_logs() as logs:
        async with Database(path) as database:
            await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
    assert modes(tmp_path) == {"given.db": 0o664}
    (line,) = logs
    assert (line["event"], line["path"], line["mode"]) == (
        "file_permissions_too_open",
        str(path),
        "0664",
    )
    assert line["hint"] == f"chmod 600 {path}"


def test_a_directory_is_made_for_this_user_only(tmp_path: Path) -> None:
    with capture_logs() as logs:
        make_directory(tmp_path / "data")
        make_directory(tmp_path / "data")
    assert modes(tmp_path) == {"data": 0o700}
    assert logs == []


def test_a_directory_that_is_there_is_told_of_if_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    path.chmod(0o755)
    with capture_logs() as logs:
        make_directory(path)
    assert modes(tmp_path) == {"data": 0o755}
    assert [line["hint"] for line in logs] == [f"chmod 700 {path}"]


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "data")
