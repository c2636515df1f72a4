"""Finds the Python interpreters of this machine that trioserver supports.

Uses the standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OLDEST: Final = (3, 11)
"""As `requires-python` of pyproject.toml says."""

_NAME: Final = re.compile(r"python3(\.\d+)?")

_PATIENCE: Final = 30.0
"""Seconds for an interpreter to say what it is. Windows managers and shims may never answer."""

_ASK: Final = """
import importlib.util, json, sys, sysconfig
print(json.dumps({
    "version": sys.version_info[:3],
    "implementation": sys.implementation.name,
    "executable": getattr(sys, "_base_executable", sys.executable),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "venv": all(map(importlib.util.find_spec, ("venv", "ensurepip"))),
}))
"""


@dataclass(frozen=True, order=True)
class Interpreter:
    """One that can make a virtual environment."""

    version: tuple[int, int, int]
    path: Path

    @property
    def name(self) -> str:
        """ "3.13.0"."""
        return ".".join(map(str, self.version))


def find(environment: Mapping[str, str] = os.environ) -> list[Interpreter]:
    """The newest of each minor version from `OLDEST` on, oldest first.

    Looks in the directories of ``PATH``, and for what pyenv and uv have installed. What does not
    run is no interpreter: a shim of pyenv for a version that is not selected only says so. Left
    out are other implementations, builds without the GIL, and interpreters without `ensurepip`.
    """
    newest: dict[tuple[int, int], Interpreter] = {}
    asked: set[Path] = set()
    for candidate in _candidates(environment):
        resolved = candidate.resolve()
        if resolved in asked:
            continue
        asked.add(resolved)
        found = _ask(candidate, environment)
        if found is not None and found.version[:2] >= OLDEST:
            minor = found.version[:2]
            newest[minor] = max(found, newest.get(minor, found), key=lambda one: one.version)
    return sorted(newest.values())


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        yield from _in(Path(folder or "."))
    home = Path(environment.get("HOME", "~")).expanduser()
    pyenv = Path(environment.get("PYENV_ROOT") or home / ".pyenv")
    uv = environment.get("UV_PYTHON_INSTALL_DIR")
    data = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
    for versions in (pyenv / "versions", Path(uv) if uv else data / "uv" / "python"):
        for version in _list(versions):
            yield from _in(version / "bin")


def _in(folder: Path) -> Iterator[Path]:
    for path in _list(folder):
        if _NAME.fullmatch(path.name) and os.access(path, os.X_OK) and path.is_file():
            yield path


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _ask(candidate: Path, environment: Mapping[str, str]) -> Interpreter | None:
    try:
        done = subprocess.run(
            [candidate, "-I", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
            env={**environment},
        )
        said = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if said["implementation"] != "cpython" or said["free_threaded"] or not said["venv"]:
        return None
    major, minor, patch = said["version"]
    return Interpreter((major, minor, patch), Path(shutil.which(said["executable"]) or candidate))
