"""`trioserver serve`: run an application."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from trioserver.app.application import Application
from trioserver.cli.output.terminal import print_error
from trioserver.cli.parameters.server import config_option, listen_options, logging_options
from trioserver.cli.serving.addresses import is_public, lines_of, what_is_private
from trioserver.cli.serving.application import load_application
from trioserver.cli.serving.running import run_server
from trioserver.cli.settings.errors import SettingsError
from trioserver.cli.settings.loading import load_settings
from trioserver.config import Config
from trioserver.logs.setup import set_up_logging
from trioserver.server.server import Server


@click.command("serve")
@click.argument("target", metavar="MODULE:APP")
@config_option
@listen_options
@logging_options
def command(
    target: str,
    config_file: Path | None,
    log_format: str | None,
    log_level: str | None,
    **listen: str | int | Path | None,
) -> None:
    """Run an application.

    MODULE is imported, from the current directory first. APP is a trioserver.Application in it, or
    a function without arguments that returns one.

    SIGTERM or Ctrl-C closes all connections over shutdown.drain_period seconds, then ends the
    server; a second one ends it at once. SIGUSR2 does the same with the reason restart. SIGHUP
    reads the TOML file, keys and certificates again. `trioserver config` lists all options and
    their environment variables.

    \b
    Examples:
      trioserver serve chat:app
      trioserver serve chat:app --host 0.0.0.0 --port 443 \\
        --certificate cert.pem --key key.pem
      TRIOSERVER_HEARTBEAT_INTERVAL=15 trioserver serve chat:app
    """
    arguments = {**listen, "log.format": log_format, "log.level": log_level}
    settings = load_settings(config_file, arguments)
    set_up_logging(
        format=settings.config.log.format,
        level=settings.config.log.level,
        exception_messages=settings.config.log.exception_messages,
    )
    for note in settings.notes:
        print_error(note)
    application = load_application(target)
    if not application.routes and all(part.http is None for part in application.parts):
        print_error(f"{target} has no routes: every request except the built-in ones gets HTTP 404")
    run_server(
        application,
        settings.config,
        announce=lambda server: _announce(server, application),
        load_config=partial(_reload, config_file, arguments),
    )


def _reload(config_file: Path | None, arguments: Mapping[str, Any]) -> Config:
    """Load the configuration again. Raises `ValueError` if it is not valid."""
    try:
        return load_settings(config_file, arguments).config
    except SettingsError as error:
        raise ValueError(error.message) from None


def _announce(server: Server, application: Application) -> None:
    """Print the addresses that the server listens on, one per line, then its routes."""
    for line in lines_of(server.addresses):
        click.echo(line)
    for route in application.routes:
        click.echo(f"  {route.path}")
    for address in server.builtin_addresses:
        click.echo(f"built-in routes on http{address.url.removeprefix('ws')}")
    private = what_is_private(server.config.http)
    if private is not None and is_public(server.addresses):
        click.echo(private)
