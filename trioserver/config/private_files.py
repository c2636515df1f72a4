"""Files with secrets: created for this user only, and checked for open permissions."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

_FILE: Final = 0o600
_DIRECTORY: Final = 0o700

_OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO
"""Permissions that cause a warning: writing by the group, and anything by others. Reading by the
group is a common way to give a file to a service."""

_log: Final = structlog.get_logger("trioserver")


def make_directory(path: Path) -> None:
    """Create a directory for this user only, with its parents, unless it exists.

    Raises `OSError`. Logs a warning if it exists and is open to others.
    """
    try:
        path.mkdir(mode=_DIRECTORY, parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise
        warn_if_open(path)


def create_file(path: Path) -> None:
    """Create an empty file for this user only, unless it exists.

    Raises nothing; the next function that opens the file reports what is wrong.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE))


def warn_if_open(path: Path) -> None:
    """Log a warning if others on this machine may read or change what is there. Raises nothing."""
    if os.name != "posix":
        return
    with suppress(OSError):
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if mode & _OTHERS:
            wanted = _DIRECTORY if stat.S_ISDIR(status.st_mode) else _FILE
            _log.warning(
                "file_permissions_too_open",
                path=str(path),
                mode=f"{mode:04o}",
                hint=f"chmod {wanted:o} {path}",
            )
