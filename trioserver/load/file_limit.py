"""Raises the limit of open files. Each client needs one file."""

from __future__ import annotations

import sys


class FileLimitError(Exception):
    """The limit is too low and cannot be raised; the text says what to do."""


def raise_file_limit(needed: int) -> None:
    """Raise the soft limit of this process to ``needed`` files. Raises `FileLimitError`."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ValueError
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):
        raise FileLimitError(
            f"each process needs {needed} open files, and the limit is {hard}: raise the limit "
            "(`ulimit -Hn`, or nofile in limits.conf), or use more --processes"
        ) from None
