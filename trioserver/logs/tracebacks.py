"""Formats tracebacks without the text of exceptions.

The text of an exception may quote anything: a token that a library could not read, a client's
message, a row of a database. So a traceback has files, lines, functions, lines of source and the
types of the exceptions, with their causes, contexts and groups. The text is shown only for types
that are known to quote nothing:

- `OSError`: its error number, in words; of `ssl.SSLError` its reason.
- `protocol.Refusal`: its code.
- Types with a class attribute ``safe_to_log`` that is True, as `DatabaseUnavailableError` has it.
  An application can set it on exceptions of its own.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final

from protocol import Refusal

_FIRST_FRAMES: Final = 16
_LAST_FRAMES: Final = 48
"""Frames of a deep stack that are shown: the outermost and the innermost."""

_MAX_CHAIN: Final = 8
_MAX_GROUP: Final = 8
_MAX_DEPTH: Final = 4

_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
_HEAD: Final = "Traceback (most recent call last):\n"

_REASON: Final = re.compile(r"[A-Z0-9_]{1,64}")  # of OpenSSL, such as CERTIFICATE_VERIFY_FAILED

_shown = False


def show_exception_messages(shown: bool) -> None:
    """Show or hide the text of exceptions in tracebacks, in the whole process.

    For development only, because the text may contain what clients sent, tokens included.
    """
    global _shown
    _shown = shown


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an exception with its causes and groups, up to some 100 KB."""
    if _shown:
        return "".join(traceback.format_exception(error))
    return "".join(_chain_of(error, 0))


def name_of(error: BaseException) -> str:
    """Return the type of an exception, and its text if that is known to quote nothing."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    text = str(error) if _shown else _safe_text_of(error)
    return f"{name}: {text}" if text else name


def _safe_text_of(error: BaseException) -> str | None:
    if getattr(type(error), "safe_to_log", False) is True:
        return str(error)
    match error:
        case Refusal():
            return error.code
        case ssl.SSLError():
            reason = str(getattr(error, "reason", None))
            return reason if _REASON.fullmatch(reason) else None
        case OSError() if error.errno is not None and error.errno in errno.errorcode:
            return f"[Errno {error.errno}] {os.strerror(error.errno)}"
    return None


def _chain_of(error: BaseException, depth: int) -> Iterator[str]:
    """Yield the chain of an exception, oldest first, as Python prints it."""
    links: list[tuple[str, BaseException]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(links) < _MAX_CHAIN:
        seen.add(id(current))
        cause, context = current.__cause__, current.__context__
        if cause is not None:
            links.append((_CAUSE, current))
            current = cause
        elif context is not None and not current.__suppress_context__:
            links.append((_CONTEXT, current))
            current = context
        else:
            links.append(("", current))
            current = None
    for number, (connection, link) in enumerate(reversed(links)):
        yield connection if number else ""
        yield from _one(link, depth)


def _one(error: BaseException, depth: int) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield _HEAD
        yield from _stack_of(error.__traceback__)
    if not isinstance(error, BaseExceptionGroup):
        yield f"{name_of(error)}\n"
        return
    parts = error.exceptions
    yield f"{name_of(error)} ({len(parts)} sub-exception{'s' * (len(parts) > 1)})\n"
    if depth < _MAX_DEPTH:
        for number, part in enumerate(parts[:_MAX_GROUP], 1):
            yield f"  +---------------- {number} ----------------\n"
            for text in _chain_of(part, depth + 1):
                yield from (f"  | {line}" for line in text.splitlines(keepends=True))


def _stack_of(tb: TracebackType) -> Iterator[str]:
    frames: list[tuple[FrameType, int]] = [*traceback.walk_tb(tb)]
    left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    if left_out <= 0:
        yield from _format(frames)
        return
    yield from _format(frames[:_FIRST_FRAMES])
    yield f"  ... {left_out} more frames ...\n"
    yield from _format(frames[-_LAST_FRAMES:])


def _format(frames: list[tuple[FrameType, int]]) -> list[str]:
    return traceback.StackSummary.extract(iter(frames), capture_locals=False).format()
