"""`trioserver check`: see whether a server keeps to the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import click
import trio
from rich.table import Table
from rich.text import Text

from trioserver.auth import inspect_token, make_secret, make_token
from trioserver.cli.conformance.scenarios import Result, Scenario, run
from trioserver.cli.output.terminal import Exit, Failure, one_line, print_json, stdout_console
from trioserver.cli.parameters.keys import KeyMaterial, key_options, read_key, user_id_option
from trioserver.cli.parameters.tokens import parse_url, read_token, token_options
from trioserver.client import WebSocketURL
from trioserver.logs.printable import printable

UNREACHABLE: Final = 5

EXIT_CODES: Final = {
    "valid": 11,
    "expired": 12,
    "invalid": 13,
    "missing": 14,
    "silent": 15,
    "not auth": 16,
    "not the owner": 17,
}
"""By scenario; of several that fail, the first one's."""

_TIMES: Final = ("exp", "iat", "nbf", "jti", "sub")
"""Claims that a token made here has of its own."""

_EXPIRED_AN_HOUR_AGO: Final = -3600.0
_NOBODY: Final = "trioserver-check"
_VERDICTS: Final = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "dim")}


@click.command("check")
@click.argument("url")
@token_options
@click.option("--expired", metavar="TEXT", help="An expired token of the same user.")
@key_options
@user_id_option
@click.option("--other-url", metavar="URL", help="A resource that is not the token's user's.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(EXIT_CODES)),
    help="Run this scenario. Can be repeated.  [default: all]",
)
@click.option("--timeout", type=click.FloatRange(0.1, 300), default=10.0, show_default=True,
              help="Seconds for connecting.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scenario.")
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
    """See whether the server at URL keeps to the protocol.

    Each scenario is a connection of its own, all at the same time: a valid token, an expired one,
    a forged one, none, silence, another message than auth, someone else's resource. With the
    server's secret or private key the expired token and a stranger's are made here; without, give
    --expired and --other-url. What cannot be run is skipped. Made tokens have the claims of the
    valid one.

    \b
    Exit codes:
       0  everything that was run is as it should be
       2  the command line is wrong
       5  the server cannot be reached
      11  valid: a good token is not let in
      12  expired: an expired one is let in, or not refused as expired
      13  invalid: the same with a forged one
      14  missing: the same with none
      15  silent: who says nothing is not ended in time
      16  not auth: something else than auth comes first, and is heard
      17  not the owner: someone else's resource can be had
    Of several that fail, the first one's.

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
            failure = Failure(f"cannot check {result.scenario.address}: {result.unreachable}")
            failure.exit_code = UNREACHABLE  # type: ignore[misc] # as Failure itself does
            raise failure
    _print(results, as_json)
    for result in results:
        if result.passed is False:
            raise click.exceptions.Exit(EXIT_CODES[result.scenario.name])


def plan(
    address: WebSocketURL,
    *,
    token: str | None,
    expired: str | None,
    key: KeyMaterial | None,
    user_id_claim: str = "sub",
    other: WebSocketURL | None,
) -> tuple[Scenario, ...]:
    """The scenarios there are, those that cannot be run with the reason why."""

    def scenario(name: str, expected: str, token: str | None, hint: str, **more: Any) -> Scenario:
        fields: dict[str, Any] = {"address": address, "first": {"type": "auth", "token": token}}
        fields |= more | {"skipped": hint if token is None else None}
        return Scenario(name=name, expected=expected, **fields)

    def make(subject: str, **more: Any) -> str:
        own = {} if user_id_claim == "sub" else {user_id_claim: subject}
        assert key is not None
        return _make(key, subject, claims | own, **more)

    subject, claims = _subject(token, user_id_claim)
    if expired is None and key is not None:
        expired = make(subject, lifetime=_EXPIRED_AN_HOUR_AGO)
    made_up = other is None and key is not None
    stranger = make(_NOBODY) if made_up else token if other else None
    forged = make_token(make_secret(), subject=subject, claims=claims)
    return (
        scenario("valid", "ready", token, "give --token"),
        scenario("expired", "token_expired", expired, "give --expired, or the secret"),
        scenario("invalid", "token_invalid", forged, ""),
        scenario("missing", "token_missing", "", "", first={"type": "auth"}),
        scenario("silent", "auth_timeout", "", "", first=None),
        scenario("not auth", "auth_required", "", "", first={"type": "message", "id": 1}),
        scenario(
            "not the owner",
            "access_denied",
            stranger,
            "give --token with --other-url, or the secret",
            address=other or address,
            made_up=made_up,
        ),
    )


def _subject(token: str | None, user_id_claim: str) -> tuple[str, dict[str, Any]]:
    """Whose token it is, so that a made one is of somebody the server knows; and what it says."""
    claims = (inspect_token(token).claims if token else None) or {}
    subject = claims.get(user_id_claim)
    more = {name: value for name, value in claims.items() if name not in _TIMES}
    return subject if isinstance(subject, str) and subject else _NOBODY, more


def _make(
    key: KeyMaterial, subject: str, claims: Mapping[str, Any], lifetime: float = 600.0
) -> str:
    try:
        return make_token(key.text, subject=subject, lifetime=lifetime, claims=claims)
    except ValueError as error:
        raise Failure(
            f"{one_line(error)} (The key is from {key.origin}.)", Exit.CONFIGURATION
        ) from None


async def run_all(scenarios: Sequence[Scenario], **options: Any) -> list[Result]:
    """All at the same time, so that silence does not add up."""
    results: dict[int, Result] = {}

    async def one(index: int) -> None:
        results[index] = await run(scenarios[index], **options)

    async with trio.open_nursery() as nursery:
        for index in range(len(scenarios)):
            nursery.start_soon(one, index)
    return [results[index] for index in range(len(scenarios))]


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
