"""From a URL to an SQLAlchemy engine that is set up for threads which may be abandoned.

One engine serves reads and transactions. It runs in AUTOCOMMIT and its pool resets nothing, so
that a read is one round trip; a transaction says BEGIN itself.
"""

from __future__ import annotations

import math
import os
import re
import socket
import sqlite3
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from trioserver.storage.errors import DatabaseUnavailable
from trioserver.storage.job import opened

try:
    import sqlalchemy
    from sqlalchemy import URL, Engine, event
    from sqlalchemy.exc import DBAPIError, TimeoutError
except ImportError as error:
    raise ImportError("SQL needs SQLAlchemy: pip install 'trioserver[sql]'") from error

CUT: Final = "trioserver.cut"
"""Where a pooled connection keeps what cuts it, in SQLAlchemy's ``Connection.info``."""

_KEEPALIVE: Final = 60
"""Seconds. Routers and clouds forget an idle TCP connection after some 350 s, and say nothing."""

_WAL_RETRY: Final = 0.005
"""Seconds. Turning a new file to WAL mode takes about as long."""

_NO_MEMORY: Final = (
    "an SQLite database in memory belongs to one connection, and there are several here: "
    "give the path of a file"
)

_SQLITE_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def parse_url(location: str | os.PathLike[str]) -> URL:
    """The URL of SQLite or PostgreSQL; what has no scheme is the path of an SQLite file.

    Raises `ValueError`, with nothing of the URL in it: a password may be anywhere in a bad one.
    """
    text = os.fspath(location)
    if "://" not in text:
        if not text or text == ":memory:":
            raise ValueError(_NO_MEMORY)
        return URL.create("sqlite", database=os.path.expanduser(text))
    try:
        url = sqlalchemy.make_url(re.sub("^postgres://", "postgresql://", text))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ValueError("the database URL cannot be understood") from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if url.database in (None, "", ":memory:"):
                raise ValueError(_NO_MEMORY)
            return url
        case "postgresql" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
    raise ValueError(f"{url.drivername}:// is not supported: use sqlite:///... or postgresql://...")


def describe_url(url: URL) -> str:
    """Where the database is, without user, password and query (which may hold a password too)."""
    bare = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def create(url: URL, *, timeout: float, connections: int) -> Engine:
    """An engine for at most ``connections`` threads. ``timeout`` is in seconds. Does no I/O.

    Raises `ImportError` with what to install.
    """
    postgresql = url.get_backend_name() == "postgresql"
    try:
        engine = sqlalchemy.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            poolclass=sqlalchemy.QueuePool,
            pool_reset_on_return=None,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args=_postgresql_arguments(url, timeout)
            if postgresql
            else {"timeout": timeout},
            **({"use_native_hstore": False} if postgresql else {}),
        )
    except ImportError as error:
        raise ImportError(
            "PostgreSQL needs psycopg: pip install 'trioserver[postgresql]'"
        ) from error
    set_up = _set_up_postgresql if postgresql else _set_up_sqlite

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        connection = dialect.connect(*arguments, **options)
        try:
            record.info[CUT] = set_up(connection, timeout)
            opened(record.info[CUT])
        except BaseException:
            connection.close()
            raise
        return connection

    return engine


def check_location(url: URL) -> None:
    """Looks whether an SQLite database can be where it should be; PostgreSQL is not looked at.

    Raises `DatabaseUnavailable` with a sentence that says what to do. Blocks.
    """
    if url.get_backend_name() != "sqlite" or url.query.get("uri"):
        return
    path = Path(url.database or "").absolute()
    try:
        # Beside the file SQLite keeps -wal and -shm, so that the directory must take new files.
        # Trying beats asking: os.access() knows nothing of read-only mounts. The database itself
        # is not opened: closing it again would drop the locks other connections hold on it.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(0, "the file may not be read and written")
    except OSError as error:
        raise DatabaseUnavailable(
            "location",
            f"SQLite cannot keep its database in {path}: {error.strerror}. "
            f"Make {path.parent} a directory this process may write to, or give another path.",
        ) from None


def as_unavailable(error: Exception) -> DatabaseUnavailable | None:
    """What a caller gets to see when the database is to blame; None for a mistake in the SQL."""
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable("overload", "All connections to the database are taken.")
    if not isinstance(error, DBAPIError):
        return None
    driver: Any = error.orig
    name = f"{type(driver).__module__}.{type(driver).__name__}"
    if isinstance(driver, sqlite3.Error):
        # sqlite3 raises OperationalError for a missing table too; the code tells them apart.
        code = getattr(driver, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        to_blame = isinstance(driver, sqlite3.DatabaseError) and code in _SQLITE_UNAVAILABLE
        detail = getattr(driver, "sqlite_errorname", "")
    else:
        to_blame = isinstance(
            error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError
        )
        to_blame = to_blame or error.connection_invalidated
        detail = getattr(driver, "sqlstate", None) or ""
    if not to_blame:
        return None
    name = f"{name} {detail}".rstrip()
    return DatabaseUnavailable("driver", f"The database failed: {name}.", driver_error=name)


def _set_up_sqlite(connection: sqlite3.Connection, timeout: float) -> Callable[[], None]:
    deadline = time.monotonic() + timeout
    while True:
        try:
            # In WAL mode readers and the one writer do not wait for each other.
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Several may open a new file at once, and here SQLite does not wait by itself.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY)
    # FULL syncs at each commit. NORMAL is enough for kill -9, but a power cut takes the last
    # commits of a WAL with it, and those have been acknowledged.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection.interrupt


def _set_up_postgresql(connection: Any, timeout: float) -> Callable[[], None]:
    # A descriptor of our own: the driver may close its one at any time, and the number would then
    # be somebody else's.
    own = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    weakref.finalize(connection, own.close)

    def cut() -> None:
        with suppress(OSError):  # it may be closed already
            own.shutdown(socket.SHUT_RDWR)

    return cut


def _postgresql_arguments(url: URL, timeout: float) -> dict[str, Any]:
    given = url.query.get("options", "")
    options = " ".join([given] if isinstance(given, str) else given)
    return {
        # Whole seconds, at least 2: libpq takes no less.
        "connect_timeout": max(2, math.ceil(timeout)),
        # The server stops working for somebody who has stopped waiting.
        "options": f"{options} -c statement_timeout={math.ceil(timeout * 1000)}".lstrip(),
        "keepalives_idle": _KEEPALIVE,
        # A database in another encoding then says so itself, as a DataError.
        "client_encoding": "utf8",
    }
