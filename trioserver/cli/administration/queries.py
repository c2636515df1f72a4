"""Subcommands of `trioserver admin` that show something and change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click
from rich.text import Text
from rich.tree import Tree

from protocol import instant
from trioserver.cli.administration.client import AdminClient
from trioserver.cli.administration.options import json_option, limit_option, resource_in_words
from trioserver.cli.output.audit_entries import print_entries
from trioserver.cli.output.tables import print_fields, print_table
from trioserver.cli.output.terminal import print_error, print_json, stdout_console
from trioserver.cli.output.times import in_words
from trioserver.cli.parameters.audit_filters import filter_options
from trioserver.logs.printable import printable
from trioserver.telemetry.phases import Phase


@click.command("connections")
@click.option("--user", metavar="ID", help="Only connections of this user.")
@click.option("--token-id", metavar="JTI", help="Only connections whose token has this jti claim.")
@click.option("--resource", metavar="NAME:VALUE", help="Only connections with this path parameter.")
@click.option("--route", metavar="PATH", help="Only connections to this route, as registered.")
@click.option(
    "--address", metavar="ADDRESS", help="Only connections from this IP address, without a port."
)
@click.option(
    "--phase",
    type=click.Choice([phase.value for phase in Phase]),
    help="Only connections in this phase, as the column Phase shows it.",
)
@click.option(
    "--after", metavar="ID", help="Only connections after this one: print the next page of rows."
)
@limit_option
@json_option
@click.pass_obj
def connections(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """List open connections, including those that are not authenticated yet.

    \b
    Examples:
      trioserver admin connections --user alice
      trioserver admin connections --resource room_id:7 --json
    """
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
                resource_in_words(each["resource"]),
                each["address"],
                in_words(each["age_ms"] / 1000),
                f"{each['queued_bytes']} B",
                _milliseconds(each["round_trip_ms"]),
            )
            for each in answer["connections"]
        ),
    )
    if answer["next"] is not None:
        print_error(f"there may be more; add --after {printable(answer['next'])} to see them")


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:g} ms"


@click.command("show")
@click.argument("id")
@json_option
@click.pass_obj
def show(client: AdminClient, /, id: str, as_json: bool) -> None:
    """Show the connection with this ID: counters, types of recent messages, and tasks.

    \b
    Example:
      trioserver admin show 964932f6c8494842
    """
    answer = client.get(f"/connections/{quote(id, safe='')}")
    if as_json:
        print_json(answer)
        return
    tasks, recent = answer.pop("tasks"), answer.pop("recent_messages")
    answer["resource"] = resource_in_words(answer["resource"])
    answer["recent_messages"] = ", ".join(recent)
    print_fields(answer)
    tree = Tree("tasks")
    for task in tasks:
        _add_task(tree, task)
    stdout_console().print(tree)


def _add_task(tree: Tree, task: Mapping[str, Any]) -> None:
    branch = tree.add(Text(printable(str(task["name"]))))
    for child in task["children"]:
        _add_task(branch, child)


@click.command("stats")
@json_option
@click.pass_obj
def stats(client: AdminClient, /, as_json: bool) -> None:
    """Show the server's counters: connections, messages, rejections, memory.

    \b
    Example:
      trioserver admin stats --json | jq .ready
    """
    answer = client.get("/statistics")
    if as_json:
        print_json(answer)
    else:
        print_fields(_flat(answer))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


@click.command("blocks")
@click.option("--user", metavar="ID", help="Only blocks that name this user.")
@click.option("--after", metavar="ID", help="Only blocks after this one: print the next page.")
@limit_option
@json_option
@click.pass_obj
def blocks(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """List the blocks in force: users, tokens, sessions and resources without access.

    \b
    Example:
      trioserver admin blocks --user alice
    """
    answer = client.get("/blocks", filters)
    if as_json:
        print_json(answer)
        return
    names = ("id", "user", "token_id", "sid", "resource", "until", "reason", "actor")
    print_table(
        ("Id", "User", "Token id", "Session", "Resource", "Until", "Reason", "By"),
        (
            [resource_in_words(each[name]) if name == "resource" else each[name] for name in names]
            for each in answer["blocks"]
        ),
    )
    if answer["next"] is not None:
        print_error(f"there are more; add --after {printable(answer['next'])} to see them")


@click.command("audit")
@filter_options
@json_option
@click.pass_obj
def audit(client: AdminClient, /, as_json: bool, **filters: Any) -> None:
    """Show the server's audit. `trioserver audit` reads the database directly.

    \b
    Example:
      trioserver admin audit --since 1h --outcome refused
    """
    for name in ("since", "until"):
        if filters[name] is not None:
            filters[name] = instant(filters[name])
    answer = client.get("/audit", filters)
    if as_json:
        print_json(answer)
        return
    print_entries(answer["entries"])
    if answer["next"] is not None:
        print_error(f"there may be more; add --before {answer['next']} to see them")
