"""The limit of open files, of which each client needs one."""

from __future__ import annotations

import sys


class TooFewFiles(Exception):
    """The limit is too low and cannot be raised; the text says what to do."""


def raise_file_limit(needed: int) -> None:
    """Let this process open ``needed`` files. Raises `TooFewFiles`."""
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
        raise TooFewFiles(
            f"a process with so many clients opens {needed} files, and may open {hard}: raise the "
            "limit (`ulimit -Hn`, or nofile in limits.conf), or use more --processes"
        ) from None
