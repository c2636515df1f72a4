"""The error that every call of a database may raise."""

from __future__ import annotations

from typing import Literal, TypeAlias

Category: TypeAlias = Literal["timeout", "overload", "location", "driver"]

Cause: TypeAlias = Literal[
    "bad_url",
    "certificate",
    "conflict",
    "connection_lost",
    "corrupt",
    "disk_full",
    "file_access",
    "file_missing",
    "internal",
    "locked",
    "missing_table",
    "no_database",
    "no_host",
    "no_resources",
    "no_role",
    "not_a_database",
    "not_permitted",
    "overload",
    "password",
    "prepared_statement",
    "privilege",
    "read_only",
    "refused",
    "starting",
    "timeout",
    "tls",
    "too_many_connections",
    "unknown",
    "unreachable",
]


class DatabaseUnavailableError(Exception):
    """The database cannot be used now. The call may succeed later, or after an operator has acted.

    - ``category``: ``timeout`` (no answer in time), ``overload`` (too many callers wait),
      ``location`` (the SQLite file cannot be where it should be) or ``driver`` (the driver raised
      ``driver_error``, a class and a code such as "psycopg.OperationalError 57P01").
    - ``cause``: what is wrong in more detail, such as ``read_only`` or ``no_role``.

    The text is for logs. It says what is wrong and what to do. It contains no SQL, no parameters,
    and of the URL only host, port and database. A driver's message may quote any of them, so only
    its class and code are given.
    """

    safe_to_log = True

    def __init__(
        self,
        category: Category,
        message: str,
        *,
        driver_error: str | None = None,
        cause: Cause = "unknown",
    ) -> None:
        super().__init__(message)
        self.category: Category = category
        self.cause: Cause = cause
        self.driver_error = driver_error
