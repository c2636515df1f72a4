"""The file of an SQLite database, and whether it is still the one that was opened.

A file that is deleted or replaced stays open under its old name: SQLite goes on writing to what
nobody will ever find again. So each connection remembers device and inode of its file, and each
use compares them with what is at the path now.

https://www.sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_database_file_while_in_use
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import structlog

from trioserver.storage.advice import explain
from trioserver.storage.errors import DatabaseUnavailable

log: Final = structlog.get_logger("trioserver")

_KEY: Final = "trioserver.file"

_Identity: TypeAlias = tuple[int, int]


class SQLiteFile:
    """Called from worker threads, several at once."""

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        self._where = where
        self._known: _Identity | None = None

    def forget(self) -> None:
        """The database was closed: what it opens next is taken as it is."""
        self._known = None

    def before_opening(self) -> None:
        """Raises `DatabaseUnavailable` if opening would make a new, empty file in the place of one
        that was deleted: blocks and records would be gone in silence."""
        if self._known is not None and self._identity() is None:
            raise self._missing()

    def opened(self, info: dict[str, Any]) -> None:
        """A connection was opened; ``info`` is where it keeps what belongs to it."""
        found = self._identity()
        if self._known is not None and found != self._known:
            log.warning("database_file_replaced", database=self._where)
        self._known = info[_KEY] = found

    def is_current(self, info: dict[str, Any]) -> bool:
        """Whether the file at the path is the one that this connection has open. Raises
        `DatabaseUnavailable` if there is none: it may come back, and then all goes on."""
        found = self._identity()
        if found is None:
            raise self._missing()
        return bool(found == info.get(_KEY))

    def _identity(self) -> _Identity | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _missing(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            "location", explain("file_missing", self._where), cause="file_missing"
        )


def read_only_uri(path: Path) -> str:
    """The URI that opens a database file without writing anything, into its directory neither.

    A database in WAL mode needs files beside it, which cannot be made in an archive. Where nobody
    writes (no WAL is there), ``immutable`` reads without them.
    """
    wal = Path(f"{path}-wal")
    try:
        in_use = wal.stat().st_size > 0
    except OSError:
        in_use = False
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "mode=ro" if in_use or writable else "mode=ro&immutable=1"
    return f"file:{quote(os.fspath(path))}?{mode}"
