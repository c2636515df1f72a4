"""`trioserver admin`: looks into a running server, and acts on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import click
from rich.text import Text
from rich.tree import Tree

from protocol import instant
from trioserver.cli.administration.client import AdminClient
from trioserver.cli.output.tables import print_fields, print_table
from trioserver.cli.output.terminal import Exit, print_error, print_json, stdout_console
from trioserver.cli.parameters.audit_filters import filter_options, print_entries
from trioserver.cli.parameters.durations import DURATION, in_words
from trioserver.cli.parameters.keys import read_text
from trioserver.logs.printable import printable
from trioserver.telemetry.phases import Phase

_VARIABLE: Final = "TRIOSERVER_ADMIN_TOKEN"
_json: Final = click.option("--json", "as_json", is_flag=True, help="The server's answer as JSON.")


@click.group("admin")
@click.option(
    "--url",
    default="http://127.0.0.1:8765",
    show_default=True,
    envvar="TRIOSERVER_ADMIN_URL",
    show_envvar=True,
    help="The server; with a path, where its administration is.",
)
@click.option(
    "--token", metavar="TEXT", help=f"Better, for the shell's history: a file, or {_VARIABLE}."
)
@click.option("--token-file", metavar="FILE", help="A file with the token, - for stdin.")
@click.option("--ca", "ca_file", metavar="FILE", help="Trust these certificates, in PEM.")
@click.option("--allow-http", is_flag=True, help="Send the token unencrypted to another machine.")
@click.option("--timeout", type=DURATION, default="10s", show_default=True, help="For each step.")
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
    """Look into a running server, and act on it.

    It asks the server's /api/v1/admin, with a token that has the admin role. What you do is
    recorded in the server's audit under your name.

    \b
    Examples:
      export TRIOSERVER_ADMIN_TOKEN=$(trioserver token make root --claim role=admin)
      trioserver admin connections --user alice
      trioserver admin disconnect --user alice
      trioserver admin block --user alice --for 1h --reason spam
      trioserver admin --url https://chat.example.com stats --json

    \b
    Exit codes: 0 done; 1 the server said no, or nobody was met; 2 the command line is wrong; 3 a
    token or certificate file cannot be used; 6 the server cannot be reached; 7 the token is
    refused, or lacks the role.
    """
    if token is not None and token_file is not None:
        raise click.UsageError("give one of --token and --token-file")
    if timeout <= 0:
        raise click.UsageError("--timeout is more than 0 seconds")
    if token_file is not None:
        token = read_text(token_file)
    context.obj = AdminClient(
        url=url,
        token=token if token is not None else os.environ.get(_VARIABLE),
        timeout=timeout,
        ca_file=ca_file,
        allow_http=allow_http,
    )


# ------------------------------------------------------------------------------ looking


@command.command("connections")
@click.option("--user", metavar="ID", help="Of this user.")
@click.option("--token-id", metavar="JTI", help="With this token.")
@click.option("--resource", metavar="NAME:VALUE", help="To this resource.")
@click.option("--route", metavar="PATH", help="Of this route, as it was registered.")
@click.option("--address", metavar="ADDRESS", help="From this address, without a port.")
@click.option(
    "--phase", metavar="PHASE", help=f"Only connections in this phase: {', '.join(Phase)}."
)
@click.option("--after", metavar="ID", help="Behind this connection: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@_json
@click.pass_obj
def connections(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """List connections, also those that are not authenticated yet."""
    answer = client.get("/connections", filters)
    if as_json:
        print_json(answer)
        return
    print_table(
        ("Id", "Phase", "User", "Route", "Resource", "Address", "Age", "Queued", "Round trip"),
        (
            (
                each["id"],
                each["phase"],
                each["user"],
                each["route"],
                _pairs(each["resource"]),
                each["address"],
                in_words(each["age_ms"] / 1000),
                f"{each['queued_bytes']} B",
                _ms(each["round_trip_ms"]),
            )
            for each in answer["connections"]
        ),
    )
    if answer["next"] is not None:
        print_error(f"there may be more: --after {printable(answer['next'])}")


@command.command("show")
@click.argument("id")
@_json
@click.pass_obj
def show(client: AdminClient, /, id: str, as_json: bool) -> None:
    """Show one connection: figures, recent types of messages, and its tasks."""
    answer = client.get(f"/connections/{quote(id, safe='')}")
    if as_json:
        print_json(answer)
        return
    tasks, recent = answer.pop("tasks"), answer.pop("recent_messages")
    answer["resource"] = _pairs(answer["resource"])
    answer["recent_messages"] = ", ".join(recent)
    print_fields(answer)
    tree = Tree("tasks")
    for task in tasks:
        _grow(tree, task)
    stdout_console().print(tree)


def _grow(tree: Tree, task: Mapping[str, Any]) -> None:
    branch = tree.add(Text(printable(str(task["name"]))))
    for child in task["children"]:
        _grow(branch, child)


@command.command("stats")
@_json
@click.pass_obj
def stats(client: AdminClient, /, as_json: bool) -> None:
    """Show how the server stands."""
    answer = client.get("/statistics")
    if as_json:
        print_json(answer)
    else:
        print_fields(_flat(answer))


@command.command("blocks")
@click.option("--user", metavar="ID", help="That name this user.")
@click.option("--after", metavar="ID", help="Behind this block: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@_json
@click.pass_obj
def blocks(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """List who is kept out."""
    answer = client.get("/blocks", filters)
    if as_json:
        print_json(answer)
        return
    names = ("id", "user", "token_id", "session", "resource", "until", "reason", "actor")
    print_table(
        ("Id", "User", "Token id", "Session", "Resource", "Until", "Reason", "By"),
        (
            [_pairs(each[name]) if name == "resource" else each[name] for name in names]
            for each in answer["blocks"]
        ),
    )
    if answer["next"] is not None:
        print_error(f"there are more: --after {printable(answer['next'])}")


@command.command("audit")
@filter_options
@_json
@click.pass_obj
def audit(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """Show what the server has recorded; `trioserver audit` reads the database itself."""
    for name in ("since", "until"):
        if filters[name] is not None:
            filters[name] = instant(filters[name])
    answer = client.get("/audit", filters)
    if as_json:
        print_json(answer)
        return
    print_entries(answer["entries"])
    if answer["next"] is not None:
        print_error(f"there may be more: --before {answer['next']}")


# ------------------------------------------------------------------------------ acting


@command.command("disconnect")
@click.option("--user", metavar="ID", help="Of this user.")
@click.option("--token-id", metavar="JTI", help="With this token.")
@click.option("--resource", multiple=True, metavar="NAME:VALUE", help="To this resource.")
@click.option("--connection", metavar="ID", help="This one.")
@click.option("--message", metavar="TEXT", help="Told to the clients.")
@_json
@click.pass_obj
def disconnect(
    client: AdminClient, /, as_json: bool, resource: tuple[str, ...], **target: str | None
) -> None:
    """Close connections that fit everything given. Exit code 1 where there was none."""
    answer = client.post("/disconnect", {**target, "resource": _resource(resource)})
    _report(answer, as_json, f"disconnected {_count(answer['disconnected'])}")
    _nobody_is_a_failure(answer["disconnected"])


@command.command("block")
@click.option("--user", metavar="ID", help="This user.")
@click.option("--token-id", metavar="JTI", help="This token: the user may log in again.")
@click.option(
    "--session",
    metavar="SID",
    help="This session: tokens with this sid claim, and who is connected to it.",
)
@click.option("--resource", multiple=True, metavar="NAME:VALUE", help="From this resource.")
@click.option("--for", "seconds", type=DURATION, metavar="DURATION", help="1h, 30m, 7d.")
@click.option("--reason", metavar="TEXT", help="For operators; clients are not told.")
@_json
@click.pass_obj
def block(
    client: AdminClient,
    /,
    as_json: bool,
    resource: tuple[str, ...],
    seconds: float | None,
    **target: str | None,
) -> None:
    """Keep out whoever fits everything given, and close their connections at once.

    Without --for it lasts until `unblock`.
    """
    if seconds is not None and seconds <= 0:
        raise click.UsageError("--for is more than 0 seconds")
    for_ms = None if seconds is None else round(seconds * 1000) or 1
    body = {**target, "resource": _resource(resource), "for_ms": for_ms}
    answer = client.post("/blocks", body)
    made = answer["block"]
    kept = "" if made["stored"] else "; it does not survive a restart of the server yet"
    text = f"block {made['id']}: disconnected {_count(answer['disconnected'])}{kept}"
    _report(answer, as_json, text)


@command.command("unblock")
@click.argument("id", required=False)
@click.option("--user", metavar="ID", help="Those that name this user, and nothing else.")
@click.option("--token-id", metavar="JTI", help="This token, and nothing else.")
@click.option("--session", metavar="SID", help="This sid claim, and nothing else.")
@click.option("--resource", multiple=True, metavar="NAME:VALUE", help="This resource.")
@_json
@click.pass_obj
def unblock(
    client: AdminClient, /, as_json: bool, resource: tuple[str, ...], **target: str | None
) -> None:
    """Lift the block with this ID, or those that name exactly what is given."""
    answer = client.post("/unblock", {**target, "resource": _resource(resource)})
    _report(answer, as_json, f"lifted {answer['unblocked']}")
    _nobody_is_a_failure(answer["unblocked"])


@command.command("drain")
@click.option(
    "--reason",
    type=click.Choice(("shutdown", "restart")),
    default="shutdown",
    show_default=True,
    help="What the clients are told.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
@click.pass_obj
def drain(client: AdminClient, /, as_json: bool, reason: str, yes: bool) -> None:
    """Send all clients away, spread over shutdown.drain_period, and end the server."""
    if not yes:
        click.confirm(f"End the server at {client.url}?", abort=True, err=True)
    _report(client.post("/drain", {"reason": reason}), as_json, "draining")


# ------------------------------------------------------------------------------ helpers


def _resource(pairs: tuple[str, ...]) -> dict[str, str] | None:
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not (name and colon and value):
            raise click.UsageError(f"--resource {pair}: write NAME:VALUE")
    return dict(pair.split(":", 1) for pair in pairs) or None


def _report(answer: Any, as_json: bool, text: str) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(printable(text))


def _nobody_is_a_failure(met: int) -> None:
    if not met:
        raise click.exceptions.Exit(Exit.FAILED)


def _count(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"


def _pairs(resource: Mapping[str, str] | None) -> str:
    return " ".join(f"{name}:{value}" for name, value in (resource or {}).items())


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:g} ms"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
