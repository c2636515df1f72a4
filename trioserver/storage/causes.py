"""Classifies the errors of database drivers.

There are two kinds. Either the database cannot do its work now, because it is down, read-only, full
or has lost a table: then the caller gets `DatabaseUnavailableError`. Or the statement or its values
are wrong, which is a mistake in the program: then the caller gets the driver's own exception.
SQLSTATE decides, not the driver's class: psycopg raises a read-only server as `InternalError`, a
missing privilege as `ProgrammingError`.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

from trioserver.storage.advice import explain
from trioserver.storage.errors import Cause, DatabaseUnavailableError

_STATES: Final[dict[str, Cause]] = {
    "25006": "read_only",
    "26000": "prepared_statement",
    "28000": "not_permitted",
    "28P01": "password",
    "3D000": "no_database",
    "3F000": "missing_table",
    "42501": "privilege",
    "42P01": "missing_table",
    "42P05": "prepared_statement",
    "53100": "disk_full",
    "53300": "too_many_connections",
    "55P03": "locked",
    "57014": "timeout",
    "57P03": "starting",
    "58P01": "corrupt",  # a file of the database is missing
}
"""By SQLSTATE. https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_CLASSES: Final[dict[str, Cause]] = {
    "08": "connection_lost",
    "40": "conflict",
    "53": "no_resources",
    "55": "locked",
    "57": "connection_lost",
    "58": "internal",
    "XX": "internal",
}
"""By the first two characters of SQLSTATE, where the whole of it is not in `_STATES`."""

_SQLITE: Final[dict[int, Cause]] = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_CANTOPEN: "file_access",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_INTERRUPT: "timeout",
    sqlite3.SQLITE_IOERR: "file_access",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_NOMEM: "no_resources",
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_PERM: "file_access",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_READONLY: "read_only",
}


_TEXTS: Final[tuple[tuple[Cause, str], ...]] = (
    ("no_database", r'database "[^"]*" does not exist|no such database|bouncer config error'),
    ("no_role", r'role "[^"]*" does not exist|no such user'),
    ("password", r"password authentication failed|no password supplied|authentication failed"),
    ("not_permitted", r"pg_hba\.conf"),
    (
        "too_many_connections",
        r"too many clients|too many connections|connection slots|no more connections allowed",
    ),
    ("starting", r"is starting up|is shutting down|not yet accepting|recovery mode"),
    ("read_only", r"session is (not )?read-only|server is (not )?in hot standby"),
    ("certificate", r"certificate"),
    ("tls", r"\bssl\b|\btls\b"),
    ("no_host", r"resolve|translate host name|name or service|nodename nor servname"),
    ("refused", r"connection refused|no such file or directory"),
    ("timeout", r"timeout|timed out"),
    ("unreachable", r"unreachable|no route to host|reset by peer|network is down"),
    ("bad_url", r"invalid (\w+ )?(connection option|value|integer|port|sslmode)"),
    ("connection_lost", r"closed the connection|connection (is lost|is closed|not open)"),
)
"""By libpq's message, where it opens a connection: it hands no SQLSTATE on from there. English, as
libpq's own texts are in psycopg's wheels; a server may answer in another language, which then is
``unknown``. The first one that matches counts."""

_MISSING: Final = re.compile(
    r'relation "([\w.]+)" does not exist|no such table: ([\w.]+)|'
    r'schema "([\w.]+)" does not exist|permission denied for \w+ ([\w.]+)'
)
"""Names from the program's own SQL, never from a value."""


def as_unavailable(error: Exception, where: str) -> DatabaseUnavailableError | None:
    """Return the error for the caller if the database is the cause, or None if the SQL is.

    ``where`` describes the database without secrets.
    """
    if isinstance(error, TimeoutError):
        text = "All connections to the database are in use."
        return DatabaseUnavailableError("overload", f"{text} ({where})", cause="overload")
    if not isinstance(error, DBAPIError):
        return None
    driver: Any = error.orig
    if isinstance(driver, sqlite3.Error):
        cause, code = _of_sqlite(driver), getattr(driver, "sqlite_errorname", "")
    else:
        cause, code = _of_postgresql(error, driver), getattr(driver, "sqlstate", None) or ""
    if cause is None:
        return None
    name = f"{type(driver).__module__}.{type(driver).__name__} {code}".rstrip()
    named = _MISSING.search(str(driver))
    detail = name if named is None else f"{next(filter(None, named.groups()))}: {name}"
    text = explain(cause, where, detail)
    return DatabaseUnavailableError("driver", text, driver_error=name, cause=cause)


def _of_sqlite(driver: sqlite3.Error) -> Cause | None:
    code = getattr(driver, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return "file_missing"
    if code == sqlite3.SQLITE_ERROR:  # of a missing table, too; its message tells it apart
        return "missing_table" if str(driver).startswith("no such table: ") else None
    return _SQLITE.get(code & 0xFF) if isinstance(driver, sqlite3.DatabaseError) else None


def _of_postgresql(error: DBAPIError, driver: Any) -> Cause | None:
    state = getattr(driver, "sqlstate", None) or ""
    cause = _STATES.get(state) or _CLASSES.get(state[:2])
    if error.connection_invalidated:
        cause = cause or "connection_lost"
    if state and not state.startswith(("08", "28")):
        return cause
    # What comes from libpq or a pooler says more in its text.
    opening = error.statement is None
    if not (cause or opening or isinstance(error, OperationalError | InterfaceError)):
        return None
    text = str(driver).lower()
    found = next((each for each, pattern in _TEXTS if re.search(pattern, text)), None)
    return found or cause or "unknown"
