"""Loads the application that MODULE:APP names; an error says in one sentence what is wrong."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import structlog

from trioserver.app.application import Application
from trioserver.auth import WeakSecretError
from trioserver.cli.output.terminal import Exit, Failure, one_line

_log = structlog.get_logger("trioserver")


class ApplicationLoadError(Failure):
    """The application cannot be loaded; the message says why, and what to do."""

    def __init__(self, message: str, code: Exit = Exit.APPLICATION) -> None:
        super().__init__(message, code)


def load_application(target: str) -> Application:
    """The application that "module:attribute" names, or that the function named there returns.

    Modules are imported from the current directory first. Raises `ApplicationLoadError`, and
    `click.UsageError` if ``target`` has another form. The traceback is logged at level debug.
    """
    module_name, attribute = _split(target)
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(module_name)
    found = _get(module, attribute)
    if not isinstance(found, Application) and callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise _failed(f"calling {target}()", error) from None
        target += "()"
    if not isinstance(found, Application):
        raise ApplicationLoadError(
            f"{target} is of type {type(found).__name__}; it must be a trioserver.Application, or "
            "a function without arguments that returns one"
        )
    return found


def _split(target: str) -> tuple[str, str]:
    module, colon, attribute = target.partition(":")
    if module.endswith(".py") or "/" in module:
        module = module.removesuffix(".py").strip("./").replace("/", ".")
        raise click.UsageError(
            f"MODULE:APP is {target!r}; write the module's name in place of its file: "
            f"{module}:{attribute or 'app'}"
        )
    if not (colon and attribute):
        raise click.UsageError(
            f"MODULE:APP is {target!r}; write the module and the application: "
            f"{module or 'chat'}:app"
        )
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise click.UsageError(
            f"MODULE:APP is {target!r}; it must consist of Python names: chat:app"
        )
    return module, attribute


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = get_close_matches(name, _modules_here())
            hint = f"did you mean {near[0]}?" if near else "run the command in its directory"
            raise ApplicationLoadError(
                f"there is no module {error.name!r} in {Path.cwd()}; {hint}"
            ) from None
        raise _failed(f"importing {name}", error) from None
    except (Exception, SystemExit) as error:
        raise _failed(f"importing {name}", error) from None


def _modules_here() -> list[str]:
    here = Path.cwd()
    packages = (path.parent.name for path in here.glob("*/__init__.py"))
    return [*(path.stem for path in here.glob("*.py")), *packages]


def _get(module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = _suggestions(part, vars(module))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ApplicationLoadError(f"{module.__name__} has no {attribute!r}{hint}") from None
    return found


def _suggestions(name: str, namespace: dict[str, Any]) -> Iterable[str]:
    """The module's applications, or else its most similar names."""
    applications = [key for key, value in namespace.items() if isinstance(value, Application)]
    public = [key for key in namespace if not key.startswith("_")]
    return applications or get_close_matches(name, public, n=2)


def _failed(doing: str, error: BaseException) -> ApplicationLoadError:
    """An error with the line of the innermost frame in the current directory."""
    _log.debug("application_load_failed", exc_info=error)
    if isinstance(error, SystemExit):
        return ApplicationLoadError(
            f"{doing} ended the program; put the code that runs it below "
            '`if __name__ == "__main__":`'
        )
    if isinstance(error, SyntaxError):
        return ApplicationLoadError(
            f"{doing} failed at {error.filename}, line {error.lineno}: {error.msg}"
        )
    here = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(Path.cwd()) and "site-packages" not in frame.filename
    ]
    where = f" at {Path(here[-1].filename).name}, line {here[-1].lineno}" if here else ""
    if isinstance(error, WeakSecretError):
        return ApplicationLoadError(f"{doing} failed{where}. {error}", Exit.CONFIGURATION)
    return ApplicationLoadError(f"{doing} failed{where}: {type(error).__name__}: {one_line(error)}")
