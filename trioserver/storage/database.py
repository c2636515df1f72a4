"""A database for Trio: SQLAlchemy Core in worker threads, with a timeout for each call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

import trio

from trioserver.storage.errors import Cause, DatabaseUnavailableError
from trioserver.storage.job import Job

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

_MAX_WAITING: Final = 1_000
"""Calls that may wait for a thread. At a millisecond each, the last of them waits a second."""

_ONE_WRITER: Final = 1
"""SQLite has one writer at a time. With a queue of our own, writers do not poll for the lock."""


_UNRELATED_TO_WRITING: Final[frozenset[Cause]] = frozenset(
    {"conflict", "missing_table", "overload", "privilege"}
)
"""If a transaction failed for one of these causes, others may still succeed."""


class Database:
    """SQLite (``sqlite:///path/file.db`` or a bare path) or PostgreSQL (``postgresql://...``).

    Open it with ``async with``; it can be opened again after it was closed. Opening checks the
    directory of an SQLite file and does not connect, so a server can start while its database is
    down, and works as soon as it is up.

    - ``timeout``: how long each call may take, in seconds, including the wait for a thread.
    - ``max_threads``: how many calls may run at once. On SQLite, transactions run one at a time.
    - ``read_only``: open an SQLite file, such as an archive, without writing anything.

    It works with PgBouncer and other poolers, also in transaction mode: no statement is prepared,
    and nothing is SET beyond a transaction.

    Raises `ValueError` for a URL that is not supported, and `ImportError` with what to install.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        max_threads: int = 4,
        read_only: bool = False,
    ) -> None:
        from trioserver.storage import engine  # here, so that the rest works without SQLAlchemy
        from trioserver.storage.causes import as_unavailable

        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout is {timeout!r}, it must be above 0 s, up to 3600 s")
        if max_threads < 1:
            raise ValueError(f"max_threads is {max_threads!r}, it must be 1 or more")
        parsed = engine.parse_url(url)
        self.timeout = timeout
        self._max_threads = max_threads
        self._open = False
        self._where = engine.describe_url(parsed)
        self._check_location = partial(engine.check_location, parsed)
        self._place = str(engine.sqlite_path(parsed) or self._where)
        self._as_unavailable = partial(as_unavailable, where=self._place)
        self._engine = engine.create(
            parsed, timeout=timeout, connections=max_threads + _ONE_WRITER, read_only=read_only
        )
        self._keys = engine
        self._read_only = read_only
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._write_failed = False

    def __repr__(self) -> str:
        return f"<Database {self._where}>"

    async def __aenter__(self) -> Self:
        """Raises `DatabaseUnavailableError` if the file of an SQLite database cannot be there."""
        if self._open:
            raise RuntimeError(f"{self!r} is open already")
        if not self._read_only:
            with self._deadline(self.timeout):
                await trio.to_thread.run_sync(self._check_location, abandon_on_cancel=True)
        self._readers = trio.CapacityLimiter(self._max_threads)
        self._writers = trio.CapacityLimiter(_ONE_WRITER) if self._sqlite else self._readers
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        # Shielded: a cancelled server closes its connections too. No longer than the timeout.
        with trio.move_on_after(self.timeout, shield=True):
            await trio.to_thread.run_sync(self._engine.dispose, abandon_on_cancel=True)

    async def run(self, fn: Callable[[Connection], T], *, timeout: float | None = None) -> T:
        """Call ``fn(connection)`` in a thread, in a transaction, and return its result.

        The transaction is committed when ``fn`` returns, and rolled back when it raises. What was
        committed survives a kill -9 and a power cut. ``timeout``, in seconds, may be shorter than
        that of the database. ``fn`` must return plain values, not a result that is still to be
        read. The connection goes back to the pool as it is, so use SET LOCAL, not SET.

        Raises `DatabaseUnavailableError`, and whatever ``fn`` raises. A time-out or a cancellation
        does not wait for the thread: the transaction is rolled back, unless the commit has begun.
        The caller then does not know whether the transaction was done; it is never half done.
        """
        return await self._call(fn, transaction=True, timeout=timeout)

    async def read(self, fn: Callable[[Connection], T], *, timeout: float | None = None) -> T:
        """Call ``fn(connection)``, which must only read, in a thread, and return its result.

        This takes fewer round trips than `run`, because there is no transaction, unless the
        connection goes through a pooler. If the connection turns out to be dead, as after a restart
        of the database, ``fn`` is called a second time. Raises as `run`.
        """
        return await self._call(fn, transaction=False, timeout=timeout)

    async def migrate(self, component: str, steps: Sequence[Callable[[Connection], None]]) -> None:
        """Run those ``steps`` for the tables of ``component`` that have not been run yet.

        If there are none, this only reads, so that it works on a read-only database. Raises
        `SchemaTooNewError`, and as `run` does.
        """
        from trioserver.storage import migrations

        if not await self.read(partial(migrations.is_current, component=component, steps=steps)):
            await self.run(partial(migrations.migrate, component=component, steps=steps))

    async def check_health(self) -> None:
        """Check that the database answers. Raises `DatabaseUnavailableError` if it does not.

        After a transaction has failed, until one succeeds, this also checks that it can be written
        to, because a database with a full disk and a read-only server still answer reads.
        """
        await self.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        if self._write_failed:
            await self.check_writable()

    async def check_writable(self) -> None:
        """Check that the database can be written to. Raises as `run` does."""
        try:
            await self.run(self._keys.touch)
        except DatabaseUnavailableError as error:
            if error.cause != "privilege":  # to make a temporary table, which nothing here needs
                raise

    async def _call(
        self, fn: Callable[[Connection], T], *, transaction: bool, timeout: float | None
    ) -> T:
        try:
            result = await self._call_in_thread(fn, transaction, timeout)
        except DatabaseUnavailableError as error:
            if transaction and error.cause not in _UNRELATED_TO_WRITING:
                self._write_failed = True
            raise
        if transaction:
            self._write_failed = False
        return result

    async def _call_in_thread(
        self, fn: Callable[[Connection], T], transaction: bool, timeout: float | None
    ) -> T:
        if not self._open:
            raise RuntimeError(f"{self!r} is not open: use it inside of `async with database:`")
        limiter = self._writers if transaction else self._readers
        if limiter.statistics().tasks_waiting >= _MAX_WAITING:
            raise DatabaseUnavailableError(
                "overload",
                f"Too many calls wait for the database ({self._place}).",
                cause="overload",
            )
        job = Job()
        try:
            with self._deadline(self.timeout if timeout is None else min(timeout, self.timeout)):
                # An abandoned thread keeps its token of the limiter until it ends: a database that
                # hangs holds as many threads as one that works.
                return await trio.to_thread.run_sync(
                    self._work, job, fn, transaction, abandon_on_cancel=True, limiter=limiter
                )
        finally:
            job.abandon()  # changes nothing when the work is done

    def _work(self, job: Job, fn: Callable[[Connection], T], transaction: bool) -> T:
        """In the thread, from here to the end of `_attempt`."""
        try:
            return self._attempt(job, fn, transaction)
        except Exception as error:
            unavailable = self._as_unavailable(error)
            if unavailable is None:
                raise
        # Outside of the `except`: the driver's message is not to come along as the context.
        raise unavailable

    def _attempt(
        self, job: Job, fn: Callable[[Connection], T], transaction: bool, *, again: bool = False
    ) -> T:
        begun = False
        keys = self._keys
        try:
            with job.in_this_thread(), self._engine.connect() as connection:
                try:
                    job.proceed(connection.info[keys.CUT])
                    with connection.begin():
                        begin = connection.info[keys.BEGIN if transaction else keys.BEGIN_READ]
                        if begin is not None:
                            connection.exec_driver_sql(begin)
                            begun = transaction
                        result = fn(connection)
                        job.proceed()
                    after = connection.info[keys.AFTER_COMMIT]
                    if transaction and after is not None:
                        after(connection.connection.driver_connection)
                    return result
                finally:
                    job.release()
                    if job.abandoned:
                        connection.invalidate()
        except Exception as error:
            dead = getattr(error, "connection_invalidated", False)
            if again or begun or not dead or job.abandoned:
                raise
        return self._attempt(job, fn, transaction, again=True)

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            raise DatabaseUnavailableError(
                "timeout",
                f"The database did not answer within {seconds:g} s ({self._place}).",
                cause="timeout",
            ) from None
