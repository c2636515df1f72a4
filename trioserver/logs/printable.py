"""Escapes text for display."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """Escape control characters, which a terminal would obey, except those in ``keep``."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
