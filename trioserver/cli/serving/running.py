"""Runs a server as a program: signals drain it, and an error is printed as one sentence."""

from __future__ import annotations

from collections.abc import Callable

from trioserver.app.application import Application
from trioserver.cli.output.terminal import Exit, Failure
from trioserver.config import Config
from trioserver.config.extras import MissingExtraError
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
    """Serve until SIGTERM or SIGINT has drained the server; a second signal ends it at once.

    SIGHUP reloads; ``load_config`` returns the new configuration. ``announce`` is called once, when
    the server accepts connections. Raises `Failure` if the server cannot start.
    """
    try:
        run(application, config, on_start=announce, load_config=load_config)
    except Exception as error:
        raise _explained(error) from None


def _explained(error: Exception) -> Exception:
    """A `Failure` for an error that the operator can correct; another one is a bug, and is kept."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    if isinstance(cause, ListenError):
        return Failure(str(cause), Exit.CANNOT_LISTEN)
    # For example, an authenticator refuses the addresses, a database file cannot be created, or the
    # library that an option needs is not installed.
    if isinstance(cause, ValueError | DatabaseUnavailableError | MissingExtraError):
        return Failure(str(cause), Exit.CONFIGURATION)
    return error
