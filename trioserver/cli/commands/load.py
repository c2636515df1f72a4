"""`trioserver load`: see what a server does under load."""

from __future__ import annotations

import os
import shlex
import signal
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
import trio

from trioserver import __version__
from trioserver.auth import make_token
from trioserver.cli.output.load_display import Display, print_outcome
from trioserver.cli.output.terminal import (
    Exit,
    Failure,
    one_line,
    print_json,
    stderr_console,
    stdout_console,
)
from trioserver.cli.parameters.durations import DURATION
from trioserver.cli.parameters.keys import read_key, read_text
from trioserver.cli.parameters.tokens import parse_url, read_token
from trioserver.load.conductor import Conductor, LoadFailed
from trioserver.load.files import TooFewFiles, raise_file_limit
from trioserver.load.outcome import Outcome
from trioserver.load.plan import Loop, Plan, Tokens
from trioserver.load.report import page
from trioserver.load.requests import MOST_IN_FLIGHT
from trioserver.load.target import TargetRefused, choose_target

_Function = TypeVar("_Function", bound=Callable[..., Any])

_RATE = click.FloatRange(0.001, 10_000_000)
_STDIN: Final = "-"
_COUNT = click.IntRange(1, 1_000_000)


def _group(*options: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    def apply(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


_connecting = _group(
    click.option("--clients", "-n", type=_COUNT, default=100, show_default=True,
                 help="Simulated clients."),
    click.option("--connect-rate", type=_RATE, metavar="N",
                 help="Connections a second. Default: all at once."),
    click.option("--ready-timeout", type=DURATION, default="30s", show_default=True,
                 help="For each client to be ready, attempts at trying again included."),
    click.option("--no-retry", is_flag=True,
                 help="A client that is told to come back later counts as failed."),
)  # fmt: skip

_credentials = _group(
    click.option("--token", metavar="TEXT", help="One token for all clients; - for stdin."),
    click.option("--tokens-file", metavar="FILE", help="A token a line, one for each client."),
    click.option("--token-command", metavar="COMMAND",
                 help="Prints a client's token; {client} stands for its number."),
    click.option("--secret", metavar="TEXT", help="Sign each client's token with this secret."),
    click.option("--secret-file", metavar="FILE",
                 help="The same, from a file. Without any of these: the variable "
                 "TRIOSERVER_SECRET, or TRIOSERVER_TOKEN."),
    click.option("--subject", default="user-{client}", show_default=True,
                 help="The user's id in tokens that are signed here."),
    click.option("--token-lifetime", type=DURATION, default="30m", show_default=True,
                 help="Of tokens that are signed here; make it short to see them refreshed."),
)  # fmt: skip

_asking = _group(
    click.option("--rate", type=_RATE, metavar="N",
                 help="Open loop: requests a second in all, whatever has been answered."),
    click.option("--in-flight", type=click.IntRange(1, MOST_IN_FLIGHT), metavar="D",
                 help="Closed loop: each client has D requests without an answer."),
    click.option("--type", "kind", metavar="TYPE", default="ping", show_default=True,
                 help="The requests' type."),
    click.option("--data", metavar="JSON",
                 help="Their data; {client} and {seq} stand for numbers."),
    click.option("--publish", "topic", metavar="TOPIC",
                 help="Publish events; the other clients subscribe and count deliveries."),
    click.option("--publishers", type=_COUNT, default=1, show_default=True,
                 help="How many clients publish."),
    click.option("--duration", type=DURATION, default="10s", show_default=True,
                 help="How long is measured."),
    click.option("--warmup", type=DURATION, default="0s", show_default=True,
                 help="How long the load is on before that."),
)  # fmt: skip

_trouble = _group(
    click.option("--storm", "storms", count=True,
                 help="Afterwards drop all connections and let all come back. Can be repeated."),
    click.option("--slow-readers", type=click.IntRange(0, 1_000_000), default=0, metavar="N",
                 help="So many clients more, which never read."),
)  # fmt: skip

_running = _group(
    click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True,
                 help="Share the clients among so many processes."),
    click.option("--i-own-this-host", "mine", is_flag=True,
                 help="Allow a target that is not this machine."),
    click.option("--cafile", type=click.Path(exists=True, dir_okay=False),
                 help="Trust the certificates in this file, for wss://."),
    click.option("--insecure-tls", is_flag=True,
                 help="DANGEROUS: accept any certificate; tokens go to whoever answers."),
)  # fmt: skip

_results = _group(
    click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object."),
    click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
                 help="Write a page with the figures and their curves."),
    click.option("--max-errors", type=click.IntRange(0), default=0, show_default=True,
                 help="How many clients and requests may fail."),
    click.option("--quiet", "-q", is_flag=True, help="No progress."),
)  # fmt: skip


@click.command("load")
@click.argument("url")
@_connecting
@_credentials
@_asking
@_trouble
@_running
@_results
def command(
    url: str,
    mine: bool,
    as_json: bool,
    report: Path | None,
    max_errors: int,
    quiet: bool,
    **options: Any,
) -> None:
    """See what the server at URL does under load.

    Clients connect, authenticate and get ready; then they ask with --rate (open loop: latency is
    counted from when a request was due) or --in-flight (closed loop), publish with --publish, or
    are just there. {client} in the URL stands for a client's number. docs/load.md says how to read
    the figures.

    Only this machine is loaded, unless --i-own-this-host says that the other is yours.

    \b
    Exit codes:
      0    no more failed than --max-errors allows; also after Ctrl-C
      1    more did, or it could not be run
      2    the command line is wrong

    \b
    Examples:
      trioserver load ws://127.0.0.1:8765/ws -n 1000 --rate 5000
      trioserver load 'ws://127.0.0.1:8765/ws/rooms/{client}' \\
        --type say --data '"hello"' --in-flight 16 --report report.html
      trioserver load ws://127.0.0.1:8765/ws -n 1000 --publish news --rate 10
      trioserver load ws://127.0.0.1:8765/ws -n 2000 --storm --json
    """
    _check_report(report)
    plan = _plan(url, mine, **options)
    console = stderr_console()
    with Display(console, quiet=quiet) as display:
        try:
            outcome = trio.run(_run, plan, display)
        except LoadFailed as error:
            raise Failure(str(error)) from None
    if report is not None:
        finished = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        try:
            report.write_text(page(outcome, version=__version__, finished=finished), "utf-8")
        except OSError as error:
            raise Failure(f"cannot write {report}: {error.strerror}") from None
    if as_json:
        print_json(outcome.as_json())
    else:
        print_outcome(stdout_console(), outcome)
    wrong = outcome.counts.wrong
    if wrong > max_errors:
        raise Failure(f"{wrong:,} failed, of clients and requests; --max-errors is {max_errors:,}")


async def _run(plan: Plan, display: Display) -> Outcome:
    """Ctrl-C ends it early, with the figures so far; a second one ends it at once."""
    conductor = Conductor(plan, display.update)

    async def stop_on_interrupt() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                conductor.stop()
                break
        # From here on Ctrl-C is Python's own again.

    failure: LoadFailed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_interrupt)
        try:
            outcome = await conductor.run()
        except LoadFailed as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return outcome


def _check_report(report: Path | None) -> None:
    """Say it now, not after the run."""
    if report is not None and not os.access(report.absolute().parent, os.W_OK):
        raise Failure(f"cannot write {report}: its directory is not there, or not writable")


def _plan(
    url: str,
    mine: bool,
    *,
    rate: float | None,
    in_flight: int | None,
    kind: str,
    no_retry: bool,
    **options: Any,
) -> Plan:
    if rate is not None and in_flight is not None:
        raise click.UsageError("give one of --rate and --in-flight")
    for name in ("duration", "warmup", "ready_timeout"):
        if options[name] < 0:
            raise click.UsageError(f"--{name.replace('_', '-')} is below zero")
    if options["topic"] is not None and rate is None and in_flight is None:
        raise click.UsageError("--publish needs a pace: --rate or --in-flight")
    loop: Loop = "closed" if in_flight else "open" if rate else "none"
    tokens = _tokens(**{name: options.pop(name) for name in _TOKEN_OPTIONS})
    parse_url("URL", url.replace("{client}", "0"))
    try:
        plan = Plan(
            url=url, family=0, sockaddr=(), tokens=tokens, loop=loop, rate=rate or 0.0,
            in_flight=in_flight or 1, type=kind, retry=not no_retry, **options,
        )  # fmt: skip
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _check_tls(plan)
    return _with_target(plan, mine)


_TOKEN_OPTIONS = (
    "token", "tokens_file", "token_command", "secret", "secret_file", "subject", "token_lifetime",
)  # fmt: skip


def _tokens(
    *,
    token: str | None,
    tokens_file: str | None,
    token_command: str | None,
    secret: str | None,
    secret_file: str | None,
    subject: str,
    token_lifetime: float,
) -> Tokens:
    given = (token, tokens_file, token_command, secret or secret_file)
    if sum(one is not None for one in given) > 1:
        raise click.UsageError(
            "give one of --token, --tokens-file, --token-command, --secret and --secret-file"
        )
    if token is not None:
        return Tokens(fixed=read_text(token) if token == _STDIN else token)
    if tokens_file is not None:
        return Tokens(lines=_token_lines(tokens_file))
    if token_command is not None:
        try:
            command = tuple(shlex.split(token_command))
        except ValueError as error:
            raise click.UsageError(f"--token-command: {one_line(error)}") from None
        if not command:
            raise click.UsageError("--token-command is empty")
        return Tokens(command=command)
    key = read_key(secret_file=secret_file, secret=secret, key_file=None)
    if key is None:
        return Tokens(fixed=read_token(None, None))
    try:
        make_token(key.text, subject=subject, lifetime=token_lifetime)
    except ValueError as error:
        raise Failure(
            f"{one_line(error)} (The key is from {key.origin}.)", Exit.CONFIGURATION
        ) from None
    return Tokens(secret=key.text, subject=subject, lifetime=token_lifetime)


def _token_lines(file: str) -> tuple[str, ...]:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            lines = tuple(line.strip() for line in opened if line.strip())
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", Exit.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is no text in UTF-8", Exit.CONFIGURATION) from None
    if not lines:
        raise Failure(f"{file} has no token", Exit.CONFIGURATION)
    return lines


def _check_tls(plan: Plan) -> None:
    if not plan.address(0).secure and (plan.cafile is not None or plan.insecure_tls):
        raise click.UsageError("--cafile and --insecure-tls are for wss:// URLs")
    if plan.cafile is not None:
        try:
            ssl.create_default_context(cafile=plan.cafile)
        except OSError:
            raise Failure(f"{plan.cafile} has no certificates in PEM", Exit.CONFIGURATION) from None


def _with_target(plan: Plan, mine: bool) -> Plan:
    """With the address that all clients connect to, and the files that they need."""

    async def choose() -> tuple[int, tuple[Any, ...]]:
        return await choose_target(plan.address(0), mine=mine)

    try:
        family, sockaddr = trio.run(choose)
        for index in range(plan.processes):
            raise_file_limit(plan.share(index).files)
    except (TargetRefused, TooFewFiles) as error:
        raise Failure(str(error)) from None
    return msgspec.structs.replace(plan, family=family, sockaddr=sockaddr)
