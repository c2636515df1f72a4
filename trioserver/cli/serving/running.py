"""Runs a server as a program: signals drain it, and what stops it is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable

from trioserver.app.application import Application
from trioserver.cli.output.terminal import Exit, Failure
from trioserver.config import Config
from trioserver.http.serving import run
from trioserver.server.server import Server
from trioserver.storage import DatabaseUnavailableError
from trioserver.websocket.errors import ListenError


def run_server(
    application: Application,
    config: Config,
    *,
    announce: Callable[[Server], None] = lambda server: None,
    load_config: Callable[[], Config] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT has drained it; a second one ends it at once.

    SIGHUP reloads, with ``load_config`` where there is one. ``announce`` is called once, when
    connections are accepted. Raises `Failure` where the server cannot start.
    """
    try:
        run(application, config, on_start=announce, load_config=load_config)
    except Exception as error:
        raise _explained(error) from None


def _explained(error: Exception) -> Exception:
    """A `Failure` for what is the operator's to change; anything else is a bug, and stays."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    if isinstance(cause, ListenError):
        return Failure(str(cause), Exit.CANNOT_LISTEN)
    # An authenticator refuses the addresses; a database's file cannot be where it should be.
    if isinstance(cause, ValueError | DatabaseUnavailableError):
        return Failure(str(cause), Exit.CONFIGURATION)
    return error
