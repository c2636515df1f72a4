"""Imports of optional libraries: an error that says which extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError):
    """An optional library is not installed; the message says how to install it."""


@contextmanager
def needs(message: str, *libraries: str) -> Iterator[None]:
    """Raise `MissingExtraError` with ``message`` if one of ``libraries`` is not installed.

    Any other error is raised unchanged, such as a missing module of trioserver, or a name that
    another version of a library does not have: installing the extra would not correct it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in libraries:
            raise
        raise MissingExtraError(message, name=error.name) from error
