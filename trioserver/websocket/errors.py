"""What stops a start, in a sentence for the operator."""

from __future__ import annotations


class CannotListen(Exception):
    """An address or a certificate cannot be had; the text says which, and what to do."""


def reason_of(error: Exception) -> str:
    """What is wrong, in words; those of getaddrinfo and of Python itself are in the text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return error.strerror or type(error).__name__
    return str(error)
