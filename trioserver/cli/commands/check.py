"""`trioserver check`: test whether a server follows the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import click
import trio
from rich.table import Table
from rich.text import Text

from trioserver.cli.conformance.plan import plan
from trioserver.cli.conformance.scenarios import Result, run_all
from trioserver.cli.output.terminal import Failure, print_json, stdout_console
from trioserver.cli.parameters.keys import key_options, read_key, user_id_option
from trioserver.cli.parameters.tokens import read_token, token_options
from trioserver.cli.parameters.urls import parse_url
from trioserver.logs.printable import printable

UNREACHABLE: Final = 5
"""Exit code if there is no server at the URL."""

EXIT_CODES: Final = {
    "valid": 11,
    "expired": 12,
    "invalid": 13,
    "missing": 14,
    "silent": 15,
    "not auth": 16,
    "not authorized": 17,
}
"""Exit code for each scenario. If several fail, the code is that of the first one."""

_VERDICTS: Final = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "dim")}


@click.command("check")
@click.argument("url")
@token_options
@click.option(
    "--expired",
    metavar="TEXT",
    help="An expired token of the same user, for the scenario expired.  [default: made with the "
    "key]",
)
@key_options
@user_id_option
@click.option(
    "--other-url",
    metavar="URL",
    help="URL of a resource that does not belong to the token's user, for the scenario not "
    "authorized.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(EXIT_CODES)),
    help="Run this scenario only. Can be repeated.  [default: all]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=10.0,
    show_default=True,
    help="Seconds to connect.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per scenario.")
def command(
    url: str,
    token: str | None,
    token_file: str | None,
    expired: str | None,
    user_id_claim: str,
    other_url: str | None,
    only: tuple[str, ...],
    timeout: float,
    as_json: bool,
    **key: str | None,
) -> None:
    """Test whether the server at URL follows the protocol.

    Each scenario opens a connection of its own; all run concurrently. They send a valid token, an
    expired one, a forged one, none, nothing at all, another message than auth, and ask for another
    user's resource. With the server's secret or private key, the expired token and the token of
    another user are made here, with the claims of the valid one. Without a key, give --expired and
    --other-url; a scenario that lacks its token is skipped.

    \b
    Exit codes:
       0  every scenario that ran has passed
       2  the command line is wrong
       5  the server cannot be reached
      11  valid: a valid token is refused
      12  expired: an expired token is accepted, or not refused as expired
      13  invalid: a forged token is accepted, or not refused as invalid
      14  missing: a client without a token is accepted, or not refused as such
      15  silent: a client that sends nothing is not closed in time
      16  not auth: a message is processed before authentication
      17  not authorized: another user's resource is accessible
    If several scenarios fail, the code is that of the first one.

    \b
    Examples:
      trioserver check ws://127.0.0.1:8765/ws --token-file token.txt
      trioserver check wss://chat.example/ws/1 --secret-file secret.txt \\
        --other-url wss://chat.example/ws/2
    """
    scenarios = plan(
        parse_url("URL", url),
        token=read_token(token, token_file),
        expired=expired,
        key=read_key(**key),
        user_id_claim=user_id_claim,
        other=None if other_url is None else parse_url("--other-url", other_url),
    )
    chosen = [scenario for scenario in scenarios if not only or scenario.name in only]
    results = trio.run(partial(run_all, chosen, timeout=timeout))
    for result in results:
        if result.unreachable is not None:
            failure = Failure(f"cannot connect to {result.scenario.address}: {result.unreachable}")
            failure.exit_code = UNREACHABLE  # type: ignore[misc] # as Failure itself does
            raise failure
    _print(results, as_json)
    for result in results:
        if result.passed is False:
            raise click.exceptions.Exit(EXIT_CODES[result.scenario.name])


def _print(results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        for result in results:
            print_json({
                "scenario": result.scenario.name,
                "expected": result.scenario.expected,
                "seen": result.seen,
                "verdict": _VERDICTS[result.passed][0].lower(),
                "ms": round(result.seconds * 1000),
                "note": result.note,
            })  # fmt: skip
        return
    table = Table("scenario", "expected", "seen", "verdict", "time", "", box=None)
    for result in results:
        verdict, style = _VERDICTS[result.passed]
        table.add_row(
            result.scenario.name,
            result.scenario.expected,
            Text(printable(result.seen)),
            Text(verdict, style),
            "" if result.passed is None else f"{result.seconds:.2f} s",
            Text(printable(result.note), "dim"),
        )
    stdout_console().print(table)
