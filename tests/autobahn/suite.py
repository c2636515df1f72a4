"""Autobahn's test suite in an environment of its own: it runs on Python 2.7 and on nothing newer.

`make autobahn` makes it, below ``.venv-autobahn/``; where it is not, the conformance test skips.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_VERSION: Final = "25.10.1"
_VIRTUALENV: Final = "virtualenv<20.22"
"""The last that makes environments for Python 2.7."""

HOME: Final = Path(__file__).parents[2] / ".venv-autobahn"
_ENVIRONMENT: Final = HOME / f"autobahntestsuite-{_VERSION}"
WSTEST: Final = _ENVIRONMENT / "bin" / "wstest"

_IS_PYTHON_27: Final = "import sys; print(sys.executable); sys.exit(sys.version_info[:2] != (2, 7))"


class NoPython27(Exception):
    """There is no Python 2.7 here; the text says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "Autobahn's test suite needs Python 2.7, and there is none in PATH: install it "
            "(pyenv install 2.7), or say where it is: make autobahn PYTHON27=/path/to/python2.7"
        )


def install() -> None:
    """Make the environment, unless it is there. Raises `NoPython27`."""
    if WSTEST.exists():
        return
    python = _find_python()
    print(f"making {_ENVIRONMENT} with {python}, which takes a minute", flush=True)
    tools = HOME / "virtualenv"
    _run(sys.executable, "-m", "venv", tools)
    _run(*_pip_install(tools), _VIRTUALENV)
    _run(tools / "bin" / "virtualenv", "--quiet", "--clear", "-p", python, _ENVIRONMENT)
    _run(*_pip_install(_ENVIRONMENT), f"autobahntestsuite=={_VERSION}")


def _find_python() -> str:
    for candidate in _candidates():
        asked = subprocess.run(
            [candidate, "-c", _IS_PYTHON_27], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return asked.stdout.strip()
    raise NoPython27


def _candidates() -> Iterator[str]:
    """What may be Python 2.7; a shim of pyenv's runs only where its version is switched on."""
    if "PYTHON27" in os.environ:
        yield os.environ["PYTHON27"]
    yield from filter(None, map(shutil.which, ("python2.7", "python2")))
    pyenv = shutil.which("pyenv")
    if pyenv is not None:
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True)
        yield from map(str, Path(root.stdout.strip()).glob("versions/2.7*/bin/python2.7"))


def _pip_install(environment: Path) -> tuple[str | Path, ...]:
    options = ("--quiet", "--disable-pip-version-check")
    return (environment / "bin" / "python", "-m", "pip", "install", *options)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
