"""Errors about options, with suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

from trioserver.cli.output.terminal import Exit, Failure
from trioserver.cli.settings.options import SECTION
from trioserver.config.fields import alternatives


class SettingsError(Failure):
    """An option is unknown or has a wrong value; the message says which, and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.CONFIGURATION)


def unknown_key(file: Path, path: str, known: Collection[str], prefix: str = "") -> SettingsError:
    """An error that suggests the most similar known options, or lists all of the same table."""
    table, _, last = path.replace("-", "_").rpartition(".")
    near = get_close_matches(path.replace("-", "_"), list(known), n=3)
    near += [name for name in known if name.rpartition(".")[2] == last and name not in near]
    beside = sorted(name for name in known if name.rpartition(".")[0] == table)
    hint = (
        f"did you mean {alternatives(near[:3])}?"
        if near
        else f"this table has: {', '.join(beside)}"
    )
    return SettingsError(f"{file}: there is no option {SECTION}.{prefix}{path}; {hint}")
