"""Text of others, made fit to be shown."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """Without what a terminal would obey: text of a peer, a file or a token is only shown."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
