"""`trioserver admin`: inspect a running server, and act on it."""

from __future__ import annotations

from typing import Final

import click

from trioserver.cli.administration import actions, queries
from trioserver.cli.administration.client import AdminClient
from trioserver.cli.parameters.durations import DURATION
from trioserver.cli.parameters.tokens import read_token

_VARIABLE: Final = "TRIOSERVER_ADMIN_TOKEN"


@click.group("admin")
@click.option(
    "--url",
    default="http://127.0.0.1:8765",
    show_default=True,
    envvar="TRIOSERVER_ADMIN_URL",
    show_envvar=True,
    metavar="URL",
    help="URL of the server. If its administration API is mounted elsewhere, with its path.",
)
@click.option(
    "--token",
    metavar="TEXT",
    help="The administrator's token. It stays in the shell's history: use --token-file or the "
    f"variable {_VARIABLE} instead.",
)
@click.option(
    "--token-file", metavar="FILE", help="File that contains the token; - reads it from stdin."
)
@click.option(
    "--ca",
    "ca_file",
    metavar="FILE",
    help="PEM file with the CA certificates to trust.  [default: those of the system]",
)
@click.option(
    "--allow-http",
    is_flag=True,
    help="Allow http:// to another machine, which sends the token unencrypted.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="10s",
    show_default=True,
    help="Time to connect, and time for each part of the response to arrive.",
)
@click.pass_context
def command(
    context: click.Context,
    url: str,
    token: str | None,
    token_file: str | None,
    ca_file: str | None,
    allow_http: bool,
    timeout: float,
) -> None:
    """Inspect a running server, and act on it.

    Sends requests to the server's API at /api/v1/admin, with a token that has the administrator's
    role. The server records actions in its audit, with the token's user.

    \b
    Examples:
      trioserver token make root --claim role=admin > token.txt
      trioserver admin --token-file token.txt connections --user alice
      export TRIOSERVER_ADMIN_TOKEN=$(cat token.txt)
      trioserver admin disconnect --user alice
      trioserver admin block --user alice --for 1h --reason spam
      trioserver admin --url https://chat.example.com stats --json

    \b
    Exit codes:
      0  done
      1  the server rejected the request, or nothing matched
      2  the command line is wrong
      3  a token or certificate file cannot be used
      6  the server cannot be reached
      7  the token is not accepted, or does not have the role
    """
    if timeout <= 0:
        raise click.UsageError(f"--timeout is {timeout:g} s; it must be more than 0 s")
    context.obj = AdminClient(
        url=url,
        token=read_token(token, token_file, _VARIABLE),
        timeout=timeout,
        ca_file=ca_file,
        allow_http=allow_http,
    )


for _subcommand in (
    queries.connections,
    queries.show,
    queries.stats,
    queries.blocks,
    queries.audit,
    actions.disconnect,
    actions.block,
    actions.unblock,
    actions.drain,
):
    command.add_command(_subcommand)
