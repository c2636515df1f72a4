"""Subcommands of `trioserver admin` that change something on the server."""

from __future__ import annotations

from typing import Any

import click

from trioserver.cli.administration.client import AdminClient
from trioserver.cli.administration.options import json_option, parse_resource
from trioserver.cli.output.terminal import Exit, print_json
from trioserver.cli.parameters.durations import DURATION
from trioserver.logs.printable import printable


@click.command("disconnect")
@click.option("--user", metavar="ID", help="Connections of this user.")
@click.option("--token-id", metavar="JTI", help="Connections whose token has this jti claim.")
@click.option(
    "--resource",
    multiple=True,
    metavar="NAME:VALUE",
    help="Connections with this path parameter. Can be repeated.",
)
@click.option("--connection", metavar="ID", help="The connection with this id.")
@click.option("--message", metavar="TEXT", help="Text that is sent to the clients as the reason.")
@json_option
@click.pass_obj
def disconnect(
    client: AdminClient, /, as_json: bool, resource: tuple[str, ...], **target: str | None
) -> None:
    """Close the connections that match every given option.

    The exit code is 1 if no connection matches.

    \b
    Example:
      trioserver admin disconnect --user alice --message 'Please log in again.'
    """
    answer = client.post("/disconnect", {**target, "resource": parse_resource(resource)})
    _report(answer, as_json, f"disconnected {_count(answer['disconnected'])}")
    _fail_if_none(answer["disconnected"])


@click.command("block")
@click.option("--user", metavar="ID", help="Block this user.")
@click.option(
    "--token-id",
    metavar="JTI",
    help="Block the token with this jti claim. The user can connect with another token.",
)
@click.option(
    "--sid",
    metavar="SID",
    help="Block this login session: tokens with this sid claim, and connections that use it.",
)
@click.option(
    "--resource",
    multiple=True,
    metavar="NAME:VALUE",
    help="Block access to the resource with this path parameter only. Can be repeated.",
)
@click.option(
    "--for",
    "seconds",
    type=DURATION,
    metavar="DURATION",
    help="How long the block lasts: 30m, 1h, 7d.  [default: until it is lifted]",
)
@click.option(
    "--reason", metavar="TEXT", help="Reason for the audit. It is not sent to the clients."
)
@json_option
@click.pass_obj
def block(
    client: AdminClient,
    /,
    as_json: bool,
    resource: tuple[str, ...],
    seconds: float | None,
    **target: str | None,
) -> None:
    """Block what matches every given option, and close its connections at once.

    Without --for, the block lasts until it is lifted with `unblock`.

    \b
    Examples:
      trioserver admin block --user alice --for 1h --reason spam
      trioserver admin block --user alice --resource room_id:7
    """
    if seconds is not None and seconds <= 0:
        raise click.UsageError(f"--for is {seconds:g} s; it must be more than 0 s")
    for_ms = None if seconds is None else round(seconds * 1000) or 1
    body = {**target, "resource": parse_resource(resource), "for_ms": for_ms}
    answer = client.post("/blocks", body)
    made = answer["block"]
    kept = "" if made["stored"] else "; not stored yet, so a restart of the server would lose it"
    text = f"block {made['id']}: disconnected {_count(answer['disconnected'])}{kept}"
    _report(answer, as_json, text)


@click.command("unblock")
@click.argument("id", required=False)
@click.option("--user", metavar="ID", help="Lift blocks that name this user.")
@click.option("--token-id", metavar="JTI", help="Lift blocks that name this jti claim.")
@click.option("--sid", metavar="SID", help="Lift blocks that name this sid claim.")
@click.option(
    "--resource",
    multiple=True,
    metavar="NAME:VALUE",
    help="Lift blocks that name this path parameter. Can be repeated.",
)
@json_option
@click.pass_obj
def unblock(
    client: AdminClient, /, as_json: bool, resource: tuple[str, ...], **target: str | None
) -> None:
    """Lift the block with this ID, or the blocks that name exactly the given options.

    A block that names anything else as well is not lifted. The exit code is 1 if there is no such
    block.

    \b
    Example:
      trioserver admin unblock --user alice
    """
    answer = client.post("/unblock", {**target, "resource": parse_resource(resource)})
    _report(answer, as_json, f"lifted {answer['unblocked']}")
    _fail_if_none(answer["unblocked"])


@click.command("drain")
@click.option(
    "--reason",
    type=click.Choice(("shutdown", "restart")),
    default="shutdown",
    show_default=True,
    help="Reason that is sent to the clients. After a restart they reconnect soon.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_obj
def drain(client: AdminClient, /, as_json: bool, reason: str, yes: bool) -> None:
    """Close all connections over shutdown.drain_period, then end the server.

    \b
    Example:
      trioserver admin drain --reason restart --yes
    """
    if not yes:
        click.confirm(f"End the server at {client.url}?", abort=True, err=True)
    _report(client.post("/drain", {"reason": reason}), as_json, "draining")


def _report(answer: Any, as_json: bool, text: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(printable(text))


def _fail_if_none(matched: int) -> None:
    if not matched:
        raise click.exceptions.Exit(Exit.FAILED)


def _count(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"
