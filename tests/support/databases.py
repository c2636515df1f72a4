"""An empty database of its own for a test, of each kind there is."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.support.patience import PATIENCE
from tests.support.postgresql import PostgreSQL

_numbers: Final = itertools.count()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """A schema of its own: made in a millisecond, where a database takes fifty."""
    schema = f"test_{next(_numbers)}"
    postgresql.execute(f"CREATE SCHEMA {schema}")
    return f"{postgresql.url}&options=-csearch_path%3D{schema}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@contextmanager
def sqlite(path: str | Path) -> Iterator[sqlite3.Connection]:
    """A connection of the test's own; what was done is committed, and it is closed, at the end.

    The context of a connection itself does not close it.
    """
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection, connection:
        yield connection


async def eventually(condition: Callable[[], bool], *, timeout: float = PATIENCE) -> None:
    """Waits for what another thread or process does; there is nothing to be told by."""
    with trio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)
