"""What is not installed, told apart from what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError):
    """A library of an optional part is not installed; the message says how to install it."""


@contextmanager
def needs(message: str, *libraries: str) -> Iterator[None]:
    """Raise `MissingExtra` with ``message`` where an import fails for want of one of ``libraries``.

    All else is raised as it is: a module of our own that is missing, a name that a library of
    another version does not have. The advice to install what is installed would hide it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in libraries:
            raise
        raise MissingExtra(message, name=error.name) from error
