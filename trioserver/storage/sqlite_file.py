"""The file of an SQLite database: detects that it was deleted or replaced.

SQLite goes on writing to a deleted file, whose contents are then lost. Therefore each connection
remembers the device and inode of its file, and each use compares them with the file at the path.

https://www.sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_database_file_while_in_use
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import structlog

from trioserver.storage.advice import explain
from trioserver.storage.errors import DatabaseUnavailableError

log: Final = structlog.get_logger("trioserver")

_KEY: Final = "trioserver.file"

WAL_BYTES: Final = 16 * 1024 * 1024
"""The size to which SQLite truncates a WAL file that has grown."""

_CHECKPOINT_INTERVAL: Final = 1.0
"""Seconds between two attempts to truncate a large WAL."""

_CHECKPOINT_WAIT: Final = 200
"""Milliseconds that current readers have to end. Writers wait meanwhile."""

_Identity: TypeAlias = tuple[int, int]


class SQLiteFile:
    """Checks the file. The methods are called in worker threads, several at once."""

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._beside = (self._wal, Path(f"{path}-shm"))
        self._where = where
        self._lock = threading.Lock()
        self._known: _Identity | None = None
        self._known_beside: list[_Identity | None] = [None, None]
        self._checkpointed_at = -math.inf

    def forget(self) -> None:
        """Accept any file when the database is opened again."""
        with self._lock:
            self._known = None

    def before_opening(self) -> None:
        """Raises `DatabaseUnavailableError` if opening would make a new, empty file in the place of
        one that was deleted: blocks and records would be gone in silence.
        """
        with self._lock:
            if self._known is None:
                return
            found = self._found()
            if found != self._known:
                self._put_away()
                self._known = found
                log.warning("database_file_replaced", database=self._where)

    def opened(self, info: dict[str, Any]) -> None:
        """Remember the file of a new connection in its ``info``."""
        with self._lock:
            self._known = info[_KEY] = _identity(self._path)
            self._look_beside()

    def is_current(self, info: dict[str, Any]) -> bool:
        """Whether the file at the path is the one that this connection has open. Raises
        `DatabaseUnavailableError` if there is none: it may come back, and then all goes on."""
        if self._found() != info.get(_KEY):
            return False
        if None in self._known_beside:  # SQLite makes them when it first needs them
            self._look_beside()
        return True

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Truncate the WAL if it has grown large because there are always readers.

        SQLite does so by itself where a moment comes without readers. Called after a transaction.
        """
        try:
            size = self._wal.stat().st_size
        except OSError:
            return
        now = time.monotonic()
        if size <= WAL_BYTES or now - self._checkpointed_at < _CHECKPOINT_INTERVAL:
            return
        self._checkpointed_at = now
        (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
        try:
            connection.execute(f"PRAGMA busy_timeout={_CHECKPOINT_WAIT}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            pass  # the transaction is done; the next one tries again
        finally:
            connection.execute(f"PRAGMA busy_timeout={timeout}")

    def _found(self) -> _Identity:
        found = _identity(self._path)
        if found is None:
            raise DatabaseUnavailableError(
                "location", explain("file_missing", self._where), cause="file_missing"
            )
        return found

    def _look_beside(self) -> None:
        """These files stay the same for as long as any connection is open."""
        self._known_beside = [_identity(path) for path in self._beside]

    def _put_away(self) -> None:
        """Delete the WAL of the file that is gone: SQLite would apply it to the new one. A WAL that
        came with the new file is another, and stays."""
        for path, known in zip(self._beside, self._known_beside, strict=True):
            if known is not None and _identity(path) == known:
                path.unlink(missing_ok=True)


def _identity(path: Path) -> _Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def read_only_uri(path: Path) -> str:
    """The URI that opens a database file for reading, and makes none.

    A database in WAL mode needs files beside it, which cannot be made in an archive. If there is no
    WAL, nothing is being written, and ``immutable`` reads without these files. If this process may
    write, it opens the file as others do, so that the last one to close it deletes the files.
    """
    wal = Path(f"{path}-wal")
    try:
        in_use = wal.stat().st_size > 0
    except OSError:
        in_use = False
    if _is_writable(path) and _is_writable(path.parent):
        mode = "mode=rw"
    else:
        mode = "mode=ro" if in_use else "mode=ro&immutable=1"
    return f"file:{quote(os.fspath(path))}?{mode}"


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
