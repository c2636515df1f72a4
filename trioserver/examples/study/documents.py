"""Uploaded files: which kinds there are, and their text, which a process of its own extracts."""

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
"""What is taken, by the end of the file's name."""

MAX_NAME: Final = 200  # characters

DEADLINE: Final = 20.0
"""Seconds for one file."""

WORKERS: Final = 2
"""Files that are parsed at the same time."""

_SENTENCES: Final = {
    "broken": "The file cannot be read: it is damaged, or not of the kind that its name says. "
    "Plain text has to be UTF-8.",
    "encrypted": "The file is protected by a password. Save it without, and send it again.",
    "no_text": "There is no text in the file. Are its pages pictures?",
    "too_large": "There is too much in the file. Send it in parts.",
    "no_library": "This server cannot read PDF files: pip install 'trioserver[demo]'.",
}

_REASONS: Final = {code: reason for reason, code in extract.EXIT_CODES.items()}


def plain_name(name: str) -> str:
    """A file's name without its folder, as it is kept and shown. Raises `Refusal`."""
    bare = PurePosixPath(name.replace("\\", "/")).name
    if not bare.isprintable() or not 0 < len(bare) <= MAX_NAME:
        raise Refusal("bad_name", f"Give the file a name, of at most {MAX_NAME} letters.")
    return bare


def kind_of(name: str) -> str:
    """Raises `Refusal` with ``unsupported_type``."""
    kind = KINDS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise Refusal("unsupported_type", f"Send a file of one of these: {', '.join(KINDS)}.")
    return kind


class Reader:
    """Reads files, a few at a time."""

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
    """Where modules are, and nothing else: this process's has secrets."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ}
