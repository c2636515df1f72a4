"""A piece of work in a thread, which the task that waits for it may walk away from.

Trio abandons a thread, it cannot end one. A thread that waits for a hung database would stay, with
its place in the limiter and its connection, for as long as the database hangs, or for good where
the other side of a network has vanished. So whoever walks away also cuts the connection: the
driver's call then fails at once, and the thread ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_current: Final = threading.local()


class Abandoned(Exception):
    """Ends the work in a thread that nobody waits for. It never reaches a caller."""


class Job:
    """Shared by the task that waits and the thread that works; every method may be called by both.

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
        """Cuts the connection in use, if there is one, and stops the work at its next step."""
        with self._lock:
            self._abandoned = True
            if self._cut is not None:
                self._cut()

    def proceed(self, cut: Callable[[], None] | None = None) -> None:
        """Goes on with the work, from here on with what ``cut`` would cut.

        Raises `Abandoned` when nobody waits any more: what comes late must not be done.
        """
        with self._lock:
            if self._abandoned:
                raise Abandoned
            if cut is not None:
                self._cut = cut

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """While it lasts, `opened` belongs to this job."""
        _current.job = self
        try:
            yield
        finally:
            del _current.job

    def release(self) -> None:
        """The connection goes back to the pool, out of reach of `abandon`."""
        with self._lock:
            self._cut = None


def opened(cut: Callable[[], None]) -> None:
    """Tells this thread's job of a connection as soon as it is open.

    Setting a new connection up takes round trips before the job itself gets to see it.
    """
    job: Job | None = getattr(_current, "job", None)
    if job is not None:
        job.proceed(cut)
