"""Uploaded files: their types, and their text, which a separate process extracts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Final

import trio

from trioserver import Refusal
from trioserver.examples.study import extract

KINDS: Final = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".pdf": "pdf",
    ".docx": "docx",
}
"""File types, by the extension of the name."""

MAX_NAME: Final = 200  # characters

DEADLINE: Final = 20.0
"""Seconds to extract the text of one file."""

WORKERS: Final = 2
"""Files that are parsed concurrently."""

_SENTENCES: Final = {
    "broken": "The file cannot be read: it is damaged, or not of the kind that its name says. "
    "Plain text has to be UTF-8.",
    "encrypted": "The file is protected by a password. Save it without one, and send it again.",
    "no_text": "There is no text in the file. Are its pages pictures?",
    "too_large": "The file has too much text. Send it in parts.",
    "no_library": "This server cannot read PDF files: pip install 'trioserver[demo]'.",
}

_REASONS: Final = {code: reason for reason, code in extract.EXIT_CODES.items()}


def plain_name(name: str) -> str:
    """Return a file's name without its folder. Raises `Refusal`."""
    bare = PurePosixPath(name.replace("\\", "/")).name
    if not bare.isprintable() or not 0 < len(bare) <= MAX_NAME:
        raise Refusal("bad_name", f"The file needs a name of 1 to {MAX_NAME} characters.")
    return bare


def kind_of(name: str) -> str:
    """Return the type of a file. Raises `Refusal` with ``unsupported_type``."""
    kind = KINDS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        message = f"This file type is not supported. Use one of: {', '.join(KINDS)}."
        raise Refusal("unsupported_type", message)
    return kind


class Reader:
    """Extracts the text of files, a few at a time."""

    def __init__(self, *, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._workers = trio.CapacityLimiter(WORKERS)

    async def read(self, name: str, data: bytes) -> str:
        """The text. Raises `Refusal`: ``unsupported_type``, or ``unreadable`` with why.

        Cancelling this, or the deadline, kills the process.
        """
        kind = kind_of(name)
        async with self._workers:
            with trio.move_on_after(self._deadline):
                done = await trio.run_process(
                    # By path: nothing but the standard library and the parser is imported.
                    [sys.executable, "-P", Path(extract.__file__), kind],
                    stdin=data,
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env=_environment(),
                )
                if done.returncode == 0:
                    return bytes(done.stdout).decode()
                # What the limits have killed has no code of its own.
                reason = _REASONS.get(done.returncode, "too_large")
                raise Refusal("unreadable", _SENTENCES[reason])
        raise Refusal("unreadable", _SENTENCES["too_large"])


def _environment() -> dict[str, str]:
    """Return an environment with the module path only: that of this process has secrets."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ}
