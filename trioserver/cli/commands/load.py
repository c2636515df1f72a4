"""`trioserver load`: measure a server under load."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import trio

from trioserver import __version__
from trioserver.cli.load_test.display import Display, print_outcome
from trioserver.cli.load_test.options import load_options
from trioserver.cli.load_test.plan import make_plan
from trioserver.cli.output.terminal import Failure, print_json, stderr_console, stdout_console
from trioserver.load.coordinator import Coordinator, LoadTestError
from trioserver.load.plan import Plan
from trioserver.load.report import page
from trioserver.load.result import RunResult


@click.command("load")
@click.argument("url")
@load_options
def command(
    url: str,
    mine: bool,
    as_json: bool,
    report: Path | None,
    max_errors: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the server at URL under load.

    Simulated clients connect and authenticate. Then they send requests with --rate (open loop:
    latency is measured from the time that a request was due) or --in-flight (closed loop), publish
    with --publish, or stay idle. {client} in the URL is replaced by the client's number.
    docs/load.md explains the figures.

    A server on another machine is loaded only with --i-own-this-host.

    \b
    Exit codes:
      0    at most --max-errors clients and requests failed; also after Ctrl-C
      1    more failed, or the test could not run
      2    the command line is wrong
      3    a file with a token or a secret, or the secret itself, cannot be used

    \b
    Examples:
      trioserver load ws://127.0.0.1:8765/ws -n 1000 --rate 5000
      trioserver load 'ws://127.0.0.1:8765/ws/rooms/{client}' \\
        --type say --data '"hello"' --in-flight 16 --report report.html
      trioserver load ws://127.0.0.1:8765/ws -n 1000 --publish news --rate 10
      trioserver load ws://127.0.0.1:8765/ws -n 2000 --storm --json
    """
    _check_report(report)
    plan = make_plan(url, mine, **options)
    console = stderr_console()
    with Display(console, quiet=quiet) as display:
        try:
            outcome = trio.run(_run, plan, display)
        except LoadTestError as error:
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
        raise Failure(f"{wrong:,} clients and requests failed; --max-errors allows {max_errors:,}")


async def _run(plan: Plan, display: Display) -> RunResult:
    """Run the test. Ctrl-C ends it early, with the figures so far; a second one ends it at once."""
    coordinator = Coordinator(plan, display.update)

    async def stop_on_interrupt() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                coordinator.stop()
                break
        # From here on Ctrl-C is Python's own again.

    failure: LoadTestError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_interrupt)
        try:
            outcome = await coordinator.run()
        except LoadTestError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return outcome


def _check_report(report: Path | None) -> None:
    """Fail before the run, not after it."""
    if report is not None and not os.access(report.absolute().parent, os.W_OK):
        raise Failure(f"cannot write {report}: its directory does not exist or is not writable")
