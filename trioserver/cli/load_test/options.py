"""The options of `trioserver load`, in the groups of docs/load.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from trioserver.cli.parameters.durations import DURATION
from trioserver.load.requests import MAX_IN_FLIGHT

_Function = TypeVar("_Function", bound=Callable[..., Any])

_RATE: Final = click.FloatRange(0.001, 10_000_000)
_COUNT: Final = click.IntRange(1, 1_000_000)


def load_options(function: _Function) -> _Function:
    """Add all options of the command."""
    for option in reversed((*_CONNECTING, *_TOKENS, *_REQUESTS, *_TROUBLE, *_RUNNING, *_RESULTS)):
        function = option(function)
    return function


_CONNECTING: Final = (
    click.option("--clients", "-n", type=_COUNT, default=100, show_default=True, metavar="N",
                 help="Number of simulated clients."),
    click.option("--connect-rate", type=_RATE, metavar="N",
                 help="New connections per second.  [default: all at once]"),
    click.option("--ready-timeout", type=DURATION, default="30s", show_default=True,
                 help="Time for each client to become ready, including retries."),
    click.option("--no-retry", is_flag=True,
                 help="Count a client as failed if the server tells it to come back later, "
                 "instead of retrying."),
)  # fmt: skip

_TOKENS: Final = (
    click.option("--token", metavar="TEXT",
                 help="Token of all clients; - reads it from stdin."),
    click.option("--tokens-file", metavar="FILE",
                 help="File with a token per line; each client uses one."),
    click.option("--token-command", metavar="COMMAND",
                 help="Command that prints a client's token; {client} is replaced by the client's "
                 "number."),
    click.option("--secret", metavar="TEXT",
                 help="Secret that signs a token for each client. Other users of this machine can "
                 "see it in the process list: use --secret-file instead."),
    click.option("--secret-file", metavar="FILE",
                 help="File with the secret that signs a token for each client.  [default: the "
                 "variable TRIOSERVER_SECRET, else the token in TRIOSERVER_TOKEN]"),
    click.option("--subject", default="user-{client}", show_default=True, metavar="TEXT",
                 help="User's id in the tokens that are signed here; {client} is replaced by the "
                 "client's number."),
    click.option("--token-lifetime", type=DURATION, default="30m", show_default=True,
                 help="Time until the tokens that are signed here expire. With a short one, "
                 "the clients refresh their tokens during the test."),
)  # fmt: skip

_REQUESTS: Final = (
    click.option("--rate", type=_RATE, metavar="N",
                 help="Open loop: send N requests per second in all, whether or not earlier ones "
                 "are answered."),
    click.option("--in-flight", type=click.IntRange(1, MAX_IN_FLIGHT), metavar="N",
                 help="Closed loop: keep N requests of each client unanswered."),
    click.option("--type", "kind", metavar="TYPE", default="ping", show_default=True,
                 help="Message type of the requests."),
    click.option("--data", metavar="JSON",
                 help="Data of the requests; {client} and {seq} are replaced by numbers."),
    click.option("--publish", "topic", metavar="TOPIC",
                 help="Publish events on this topic instead of sending requests; the other "
                 "clients subscribe and count deliveries."),
    click.option("--publishers", type=_COUNT, default=1, show_default=True, metavar="N",
                 help="Number of clients that publish, with --publish."),
    click.option("--duration", type=DURATION, default="10s", show_default=True,
                 help="Time that is measured."),
    click.option("--warmup", type=DURATION, default="0s", show_default=True,
                 help="Time under load before the measurement begins."),
)  # fmt: skip

_TROUBLE: Final = (
    click.option("--storm", "storms", count=True,
                 help="After the measurement, drop all connections and let all clients reconnect. "
                 "Can be repeated."),
    click.option("--slow-readers", type=click.IntRange(0, 1_000_000), default=0, metavar="N",
                 help="Number of additional clients that never read.  [default: 0]"),
)  # fmt: skip

_RUNNING: Final = (
    click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True,
                 metavar="N", help="Number of processes that the clients are divided among."),
    click.option("--i-own-this-host", "mine", is_flag=True,
                 help="Confirm that you may load a server that is not on this machine."),
    click.option("--cafile", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
                 help="PEM file with the CA certificates to trust for wss://.  [default: those of "
                 "the system]"),
    click.option("--insecure-tls", is_flag=True,
                 help="DANGEROUS: accept any certificate. Tokens are sent to whatever server "
                 "answers."),
)  # fmt: skip

_RESULTS: Final = (
    click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object."),
    click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
                 help="Write an HTML page with the figures and charts."),
    click.option("--max-errors", type=click.IntRange(0), default=0, show_default=True,
                 metavar="N", help="Number of failed clients and requests up to which the exit "
                 "code is 0."),
    click.option("--quiet", "-q", is_flag=True, help="Do not print progress."),
)  # fmt: skip
