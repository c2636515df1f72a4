"""Makes the plan of a load test from the options of `trioserver load`."""

from __future__ import annotations

import shlex
import ssl
from typing import Any, Final

import click
import msgspec
import trio

from trioserver.auth import make_token
from trioserver.cli.output.terminal import Exit, Failure, one_line
from trioserver.cli.parameters.keys import key_failure, read_key, read_text
from trioserver.cli.parameters.tokens import read_token
from trioserver.cli.parameters.urls import parse_url
from trioserver.load.file_limit import FileLimitError, raise_file_limit
from trioserver.load.plan import Loop, Plan, Tokens
from trioserver.load.target import TargetError, choose_target

_STDIN: Final = "-"

_TOKEN_OPTIONS: Final = (
    "token", "tokens_file", "token_command", "secret", "secret_file", "subject", "token_lifetime",
)  # fmt: skip


def make_plan(
    url: str,
    mine: bool,
    *,
    rate: float | None,
    in_flight: int | None,
    kind: str,
    no_retry: bool,
    **options: Any,
) -> Plan:
    """The plan for the options of the command. Raises `Failure` and `click.UsageError`.

    It raises this process's limit of open files as far as the clients need it.
    """
    if rate is not None and in_flight is not None:
        raise click.UsageError("--rate and --in-flight cannot be combined; give one of them")
    for name in ("duration", "warmup", "ready_timeout"):
        if options[name] < 0:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is {options[name]:g} s; it must not be below 0 s"
            )
    if options["topic"] is not None and rate is None and in_flight is None:
        raise click.UsageError("--publish needs --rate or --in-flight as well")
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
            "--token, --tokens-file, --token-command, --secret and --secret-file cannot be "
            "combined; give one of them"
        )
    if token is not None:
        return Tokens(fixed=read_text(token) if token == _STDIN else token)
    if tokens_file is not None:
        return Tokens(lines=_token_lines(tokens_file))
    if token_command is not None:
        try:
            command = tuple(shlex.split(token_command))
        except ValueError as error:
            raise click.UsageError(
                f"--token-command cannot be split into words: {one_line(error)}"
            ) from None
        if not command:
            raise click.UsageError(
                "--token-command is empty; it must be a command that prints a token"
            )
        return Tokens(command=command)
    key = read_key(secret_file=secret_file, secret=secret, key_file=None)
    if key is None:
        return Tokens(fixed=read_token(None, None))
    try:
        make_token(key.text, subject=subject, lifetime=token_lifetime)
    except ValueError as error:
        raise key_failure(key, error) from None
    return Tokens(secret=key.text, subject=subject, lifetime=token_lifetime)


def _token_lines(file: str) -> tuple[str, ...]:
    try:
        with click.open_file(file, encoding="utf-8") as opened:
            lines = tuple(line.strip() for line in opened if line.strip())
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", Exit.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is not text in UTF-8", Exit.CONFIGURATION) from None
    if not lines:
        raise Failure(f"{file} is empty; it must contain a token per line", Exit.CONFIGURATION)
    return lines


def _check_tls(plan: Plan) -> None:
    if not plan.url_of(0).secure and (plan.cafile is not None or plan.insecure_tls):
        raise click.UsageError("--cafile and --insecure-tls need a wss:// URL")
    if plan.cafile is not None:
        try:
            ssl.create_default_context(cafile=plan.cafile)
        except OSError:
            raise Failure(
                f"--cafile {plan.cafile} contains no certificate in PEM", Exit.CONFIGURATION
            ) from None


def _with_target(plan: Plan, mine: bool) -> Plan:
    """Add the address that all clients connect to, and raise the limit of open files."""

    async def choose() -> tuple[int, tuple[Any, ...]]:
        return await choose_target(plan.url_of(0), mine=mine)

    try:
        family, sockaddr = trio.run(choose)
        for index in range(plan.processes):
            raise_file_limit(plan.share(index).files)
    except (TargetError, FileLimitError) as error:
        raise Failure(str(error)) from None
    return msgspec.structs.replace(plan, family=family, sockaddr=sockaddr)
