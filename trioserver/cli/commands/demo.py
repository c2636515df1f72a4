"""`trioserver demo`: run the example systems on one port, with users and tokens."""

from __future__ import annotations

import os
import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import click
import structlog

from trioserver import Server
from trioserver.auth import make_secret
from trioserver.auth.loopback import is_loopback
from trioserver.cli.demo.next_steps import print_next_steps
from trioserver.cli.demo.system import USERS, Demo
from trioserver.cli.output.terminal import Exit, Failure, print_json
from trioserver.cli.parameters.server import logging_options
from trioserver.cli.serving.running import run_server
from trioserver.cli.settings.loading import load_settings
from trioserver.config.private_files import make_directory
from trioserver.examples import agents
from trioserver.logs.setup import set_up_logging
from trioserver.peers.hosts import LOOPBACK

PASSWORD_VARIABLE: Final = "TRIOSERVER_DEMO_PASSWORD"  # noqa: S105 -- its name

log: Final = structlog.get_logger("trioserver")


@click.command("demo")
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Address to listen on.  [default: 127.0.0.1]",
)
@click.option(
    "--port",
    type=int,
    metavar="NUMBER",
    help="TCP port to listen on; 0 picks a free one.  [default: 8765]",
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory for the database.  [default: a temporary one, deleted at the end]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print URLs, tokens and passwords as one JSON object when the server is ready.",
)
@click.option(
    "--trust-user-id",
    is_flag=True,
    help="Accept a user_id without a token in the first message to a conversation. Works on "
    "loopback addresses only.",
)
@logging_options
def command(
    host: str | None,
    port: int | None,
    data: Path | None,
    as_json: bool,
    trust_user_id: bool,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run the example systems, with users, conversations and tokens.

    Prints URLs and commands to try. The database is a SQLite file in --data DIR or in a temporary
    directory.

    Variables: TRIOSERVER_SECRET signs the tokens; by default a secret is made for this run.
    TRIOSERVER_DEMO_PASSWORD is the password of all users; by default each gets a random one.
    TRIOSERVER_TOKEN_LIFETIME is the lifetime of tokens in seconds. TRIOSERVER_COACH_URL is an
    OpenAI-compatible endpoint for the study coach.

    \b
    Examples:
      trioserver demo
      trioserver demo --port 0 --json
      trioserver demo --trust-user-id
    """
    arguments = {"host": host, "port": port, "log.format": log_format, "log.level": log_level}
    config = load_settings(None, arguments).config
    set_up_logging(
        format=config.log.format,
        level=config.log.level,
        exception_messages=config.log.exception_messages,
    )
    with tempfile.TemporaryDirectory(prefix="trioserver-") as temporary:
        directory = _directory(data or Path(temporary))
        demo = Demo(_settings(), directory, trust_user_id, _passwords())
        if config.audit.database is None:
            config = attrs.evolve(
                config, audit=attrs.evolve(config.audit, database=demo.database_url)
            )
        if not config.origins.hosts and all(is_loopback(each.host) for each in config.listeners):
            # Against DNS rebinding: other names may resolve to this machine, too.
            config = attrs.evolve(config, origins=attrs.evolve(config.origins, hosts=(LOOPBACK,)))
        try:
            application = demo.application()
        except ValueError as error:
            raise Failure(str(error), Exit.CONFIGURATION) from None
        run_server(application, config, announce=partial(_announce, demo, as_json))


def _directory(path: Path) -> Path:
    try:
        make_directory(path)
    except OSError as error:
        raise Failure(
            f"cannot make the directory {path}: {error.strerror}; choose another one with --data",
            Exit.CONFIGURATION,
        ) from None
    return path


def _settings() -> agents.Settings:
    """The settings in the environment, with a new secret if there is none."""
    try:
        settings = agents.Settings.from_environment()
    except ValueError as error:
        raise Failure(str(error), Exit.CONFIGURATION) from None
    if agents.SECRET_VARIABLE in os.environ:
        return settings  # the applications check it
    log.warning(
        "development_secret_created",
        hint="tokens are valid for this run only; set TRIOSERVER_SECRET to keep them valid",
    )
    return agents.Settings(secret=make_secret(), token_lifetime=settings.token_lifetime)


def _passwords() -> dict[str, str]:
    """The password in the environment for all users, or a random one for each."""
    given = os.environ.get(PASSWORD_VARIABLE)
    return {user: given or secrets.token_urlsafe(9) for user in USERS}


def _announce(demo: Demo, as_json: bool, server: Server) -> None:
    facts = demo.facts(server)
    if as_json:
        print_json(facts)
    else:
        print_next_steps(demo, facts, server)
