"""What a caller of the database has to be ready for."""

from __future__ import annotations

from typing import Literal, TypeAlias

Category: TypeAlias = Literal["timeout", "overload", "location", "driver"]


class DatabaseUnavailable(Exception):
    """The database cannot be had now; the same call may succeed later.

    ``category`` is ``timeout`` (no answer in time), ``overload`` (too many callers wait already),
    ``location`` (the SQLite file cannot be where it should be) or ``driver`` (the driver raised
    ``driver_error``, the name of a class and a code such as "psycopg.OperationalError 57P01").

    The text is for logs. It holds no SQL, no parameters and nothing of the URL: a driver's own
    message may quote any of them, so that only its class and its code are told.
    """

    def __init__(
        self, category: Category, message: str, *, driver_error: str | None = None
    ) -> None:
        super().__init__(message)
        self.category: Category = category
        self.driver_error = driver_error
