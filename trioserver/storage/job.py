"""Work in a thread that the task which waits for it can abandon.

Trio can abandon a thread, but not end it. A thread that waits for a hung database would keep its
token of the limiter and its connection for as long as the database hangs. Therefore the task that
abandons it also cuts the connection: the driver's call then fails at once, and the thread ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_current: Final = threading.local()


class Abandoned(Exception):
    """Ends the work in an abandoned thread. It never reaches a caller."""


class Job:
    """Shared by the waiting task and the working thread; both may call every method.

    The lock is never held while anything waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cut: Callable[[], None] | None = None
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        return self._abandoned

    def abandon(self) -> None:
        """Cut the connection in use, if there is one, and stop the work at its next step."""
        with self._lock:
            self._abandoned = True
            if self._cut is not None:
                self._cut()

    def proceed(self, cut: Callable[[], None] | None = None) -> None:
        """Continue the work, from now on with a connection that ``cut`` cuts.

        Raises `Abandoned` if the task does not wait any more, because late work must not be done.
        """
        with self._lock:
            if self._abandoned:
                raise Abandoned
            if cut is not None:
                self._cut = cut

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """Make `opened`, called in this thread, report to this job."""
        _current.job = self
        try:
            yield
        finally:
            del _current.job

    def release(self) -> None:
        """Note that the connection goes back to the pool, where `abandon` must not cut it."""
        with self._lock:
            self._cut = None


def opened(cut: Callable[[], None]) -> None:
    """Pass a new connection to this thread's job as soon as it is open.

    Its set-up takes round trips, which `Job.abandon` must be able to cut too.
    """
    job: Job | None = getattr(_current, "job", None)
    if job is not None:
        job.proceed(cut)
