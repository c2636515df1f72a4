"""Makes an SQLAlchemy engine from a URL, for threads that may be abandoned.

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
from functools import partial
from pathlib import Path
from typing import Any, Final

from trioserver.config.extras import needs
from trioserver.config.private_files import create_file, warn_if_open
from trioserver.storage.errors import DatabaseUnavailableError
from trioserver.storage.job import opened
from trioserver.storage.sqlite_file import WAL_BYTES, SQLiteFile, read_only_uri

with needs("SQL needs SQLAlchemy: pip install 'trioserver[sql]'", "sqlalchemy"):
    import sqlalchemy
    from sqlalchemy import URL, Connection, Engine, event
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.exc import InvalidatePoolError

CUT: Final = "trioserver.cut"
"""Where a pooled connection keeps what cuts it, in SQLAlchemy's ``Connection.info``."""

BEGIN: Final = "trioserver.begin"
"""Likewise, the statement that begins a transaction."""

AFTER_COMMIT: Final = "trioserver.after_commit"
"""Likewise, what is called with the driver's connection after a transaction; None: nothing."""

BEGIN_READ: Final = "trioserver.begin_read"
"""Likewise, the one that begins a read; None where a read needs none."""

_KEEPALIVE: Final = 60
"""Seconds. Routers and clouds forget an idle TCP connection after some 350 s, and say nothing."""

_CHOOSE_INTERVAL: Final = 1.0
"""Seconds between two times that all connections are dropped because the server is read-only."""

_WAL_RETRY: Final = 0.005
"""Seconds. Turning a new file to WAL mode takes about as long."""

_NO_MEMORY: Final = (
    "an SQLite database in memory belongs to one connection, and there are several here: "
    "give the path of a file"
)


def parse_url(location: str | os.PathLike[str]) -> URL:
    """Parse a URL of SQLite or PostgreSQL. Without a scheme it is the path of an SQLite file.

    Raises `ValueError`, whose message quotes nothing of the URL: it may contain a password.
    """
    text = os.fspath(location)
    if "://" not in text:
        if not text or text == ":memory:":
            raise ValueError(_NO_MEMORY)
        return URL.create("sqlite", database=os.path.expanduser(text))
    try:
        url = sqlalchemy.make_url(re.sub("^postgres://", "postgresql://", text))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise ValueError("the database URL is malformed") from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if url.database in (None, "", ":memory:"):
                raise ValueError(_NO_MEMORY)
            return url
        case "postgresql" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
    raise ValueError(f"{url.drivername}:// is not supported: use sqlite:///... or postgresql://...")


def describe_url(url: URL) -> str:
    """Return the URL without user, password and query, which may contain a password too."""
    bare = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def create(url: URL, *, timeout: float, connections: int, read_only: bool = False) -> Engine:
    """Make an engine for at most ``connections`` threads. ``timeout`` is in seconds. Does no I/O.

    ``read_only`` opens an SQLite file without writing anything. Raises `ImportError` with what to
    install, and `ValueError` for an option in the URL that libpq does not have.
    """
    postgresql = url.get_backend_name() == "postgresql"
    with needs("PostgreSQL needs psycopg: pip install 'trioserver[postgresql]'", "psycopg"):
        engine = sqlalchemy.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            poolclass=sqlalchemy.QueuePool,
            pool_reset_on_return=None,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            hide_parameters=True,
            connect_args=_postgresql_arguments(timeout) if postgresql else {"timeout": timeout},
            **({"use_native_hstore": False} if postgresql else {}),
        )
    if postgresql:
        _check_options(engine, url)
        _listen_postgresql(engine, timeout)
    else:
        _listen_sqlite(engine, url, timeout, read_only)
    return engine


def _listen_sqlite(engine: Engine, url: URL, timeout: float, read_only: bool) -> None:
    path = sqlite_path(url)
    file = None if path is None else SQLiteFile(path, str(path))

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        if file is not None:
            file.before_opening()
        if path is not None and not read_only:
            create_file(path)  # -wal and -shm get its mode from SQLite
        if read_only and path is not None:
            arguments, options = (read_only_uri(path),), {**options, "uri": True}
        connection = dialect.connect(*arguments, **options)
        try:
            record.info[CUT] = cut = partial(_interrupt, connection)
            record.info[BEGIN], record.info[BEGIN_READ] = "BEGIN IMMEDIATE", None
            record.info[AFTER_COMMIT] = None if file is None else file.checkpoint
            opened(cut)
            _set_up_sqlite(connection, timeout, read_only)
            if file is not None:
                file.opened(record.info)
        except BaseException:
            connection.close()
            raise
        return connection

    if file is None:
        return

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        if not file.is_current(record.info):
            raise InvalidatePoolError("the file was replaced")  # SQLAlchemy opens another

    @event.listens_for(engine, "engine_disposed")
    def disposed(engine: Engine) -> None:
        file.forget()


def _listen_postgresql(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        connection = dialect.connect(*arguments, **options)
        try:
            record.info[CUT] = cut = _make_cut(connection)
            opened(cut)
            begin, begin_read = _set_up_postgresql(connection, timeout)
            record.info[BEGIN], record.info[BEGIN_READ] = begin, begin_read
            record.info[AFTER_COMMIT] = None
        except BaseException:
            connection.close()
            raise
        return connection

    chosen_at = -math.inf

    @event.listens_for(engine, "handle_error")
    def choose_again(context: ExceptionContext) -> None:
        # A primary that was demoted keeps its connections. Without them, target_session_attrs in
        # the URL finds the new primary. Where there is none, not at each write that fails.
        nonlocal chosen_at
        if getattr(context.original_exception, "sqlstate", None) == "25006" and context.connection:
            now = time.monotonic()
            if now - chosen_at >= _CHOOSE_INTERVAL:
                chosen_at = now
                context.is_disconnect = True  # and with it the whole pool is


def sqlite_path(url: URL) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL and for a URI of SQLite."""
    if url.get_backend_name() != "sqlite" or url.query.get("uri"):
        return None
    return Path(url.database or "").absolute()


def check_location(url: URL) -> None:
    """Check that an SQLite database can be at its path. PostgreSQL is not checked.

    Raises `DatabaseUnavailableError` with a message that says what to do. Blocks.
    """
    path = sqlite_path(url)
    if path is None:
        return
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
        warn_if_open(path)
    except OSError as error:
        raise DatabaseUnavailableError(
            "location",
            f"SQLite cannot keep its database in {path}: {error.strerror}. "
            f"Make {path.parent} a directory this process may write to, or give another path.",
            cause="file_access",
        ) from None


def read_on(connection: Connection) -> None:
    """Continue after an error in a read: behind a pooler, its transaction has been aborted."""
    begin = connection.info[BEGIN_READ]
    if begin is not None:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql(begin)


def touch(connection: Connection) -> None:
    """Check that the database accepts writes, by a write that changes nothing."""
    if connection.dialect.name == "sqlite":
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {int(version)}")  # writes a page
    else:
        connection.exec_driver_sql("CREATE TEMP TABLE trioserver_probe (x int) ON COMMIT DROP")


def _set_up_sqlite(connection: sqlite3.Connection, timeout: float, read_only: bool) -> None:
    if read_only:
        connection.execute("PRAGMA query_only=ON")
        return
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
    connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")


def _interrupt(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.ProgrammingError):  # it may be closed already
        connection.interrupt()


def _make_cut(connection: Any) -> Callable[[], None]:
    # A duplicate: the driver may close its descriptor at any time, and the number may be reused.
    own = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    weakref.finalize(connection, own.close)

    def cut() -> None:
        with suppress(OSError):  # it may be closed already
            own.shutdown(socket.SHUT_RDWR)

    return cut


def _set_up_postgresql(connection: Any, timeout: float) -> tuple[str, str | None]:
    """Return the statement that begins a transaction, and the one that begins a read or None.

    PostgreSQL itself ends a statement whose caller has timed out. A pooler such as PgBouncer may
    use another connection for each transaction: there, a SET would remain for other clients, and
    ``options`` in the URL are refused. So the limit is set for each transaction, and a read is one.
    A pooler is recognised by the process number: the one that it sent when the connection was
    opened differs from that of the process which answers.
    """
    limit = f"statement_timeout = {math.ceil(timeout * 1000)}"
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    if process != connection.info.backend_pid:
        begin = f"BEGIN; SET LOCAL {limit}"
        return begin, begin
    connection.execute(f"SET {limit}")
    return "BEGIN", None


def _postgresql_arguments(timeout: float) -> dict[str, Any]:
    return {
        # Whole seconds, at least 2: libpq takes no less.
        "connect_timeout": max(2, math.ceil(timeout)),
        "keepalives_idle": _KEEPALIVE,
        # In pg_stat_activity and in the log of the database; the URL and PGAPPNAME come first.
        "fallback_application_name": "trioserver",
        # A database in another encoding then says so itself, as a DataError.
        "client_encoding": "utf8",
        "autocommit": True,
        # Never a statement on the server that outlives its transaction. Behind PgBouncer the next
        # transaction may be on another connection, where the same name is another statement: an
        # authorizer would then get the answer of another query.
        "prepare_threshold": None,
    }


def _check_options(engine: Engine, url: URL) -> None:
    """Raises `ValueError` for an option that libpq does not have, and does not quote it."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    _, options = engine.dialect.create_connect_args(url)
    own = ("context", "client_encoding", *_postgresql_arguments(1.0))
    try:
        make_conninfo(**{name: value for name, value in options.items() if name not in own})
    except ProgrammingError:
        raise ValueError(
            "the database URL has an option that PostgreSQL does not know: check what follows '?'"
        ) from None
