"""``trioserver demo``: the examples on one port, with users, conversations and tokens to try."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import click
import structlog
from rich.markup import escape

from trioserver import Application, Server
from trioserver.auth import Authenticator, TrustedUserId, make_secret, make_token
from trioserver.auth.loopback import is_loopback
from trioserver.cli.output.terminal import Exit, Failure, print_json, stdout_console
from trioserver.cli.parameters.durations import in_words
from trioserver.cli.parameters.server import logging_options
from trioserver.cli.serving.addresses import is_public, outward_address, what_is_private
from trioserver.cli.serving.running import run_server
from trioserver.cli.settings.loading import load_settings
from trioserver.config.private_files import make_directory
from trioserver.examples import (
    accounts,
    admin_dashboard,
    agents,
    audiences,
    behavior_log,
    conversations,
    study_coach,
    website,
)
from trioserver.logs.setup import set_up_logging
from trioserver.peers.hosts import LOOPBACK

SEED: Final = {"alice": ["alice-1", "alice-2"], "bob": ["bob-1"]}
"""The users, and the conversations that are theirs."""

CLAIMS: Final[dict[str, dict[str, str]]] = {"admin": {"role": "admin"}}
"""What tokens say of those users of whom there is something to say."""

USERS: Final = (*SEED, *CLAIMS)

PASSWORD_VARIABLE: Final = "TRIOSERVER_DEMO_PASSWORD"  # noqa: S105 -- its name

MPIN: Final = {"phone": "9876543210", "mpin": "123456", "device_id": "device001"}
"""What the phone of `PHONE_USER` logs in with."""

PHONE_USER: Final = "user001"

_EXPIRED_FOR: Final = -3600.0  # seconds; well past any leeway

log: Final = structlog.get_logger("trioserver")


@attrs.frozen
class Demo:
    """What the demo runs with."""

    settings: agents.Settings = attrs.field(repr=False)
    directory: Path
    trust_user_id: bool
    passwords: dict[str, str] = attrs.field(repr=False)

    @property
    def database_url(self) -> str:
        """The one file of all examples, and of the audit."""
        return f"sqlite:///{self.directory / 'demo.db'}"

    def application(self) -> Application:
        """All examples as one application. Raises `ValueError` for what is configured wrongly."""
        administrators = self.settings.auth(audiences.ADMIN_DASHBOARD)
        talkers: Authenticator = self.settings.auth(audiences.CONVERSATIONS)
        if self.trust_user_id:
            talkers = TrustedUserId(dangerously_trust_every_client=True)
        url, secret = self.database_url, self.settings.secret
        lifetime = self.settings.token_lifetime
        users = {
            user: accounts.Account(self.passwords[user], CLAIMS.get(user, {})) for user in USERS
        }
        phones = {MPIN["phone"]: (PHONE_USER, MPIN["mpin"])}
        application = Application(auth=administrators)
        for part in (
            accounts.make(url, secret=secret, token_lifetime=lifetime, users=users),
            admin_dashboard.make(url, auth=administrators),
            agents.make(self.settings),
            behavior_log.make(url, secret=secret, token_lifetime=lifetime, users=phones),
            conversations.make(url, auth=talkers, seed=SEED, is_user=_is_user),
            study_coach.make(url, auth=self.settings.auth(audiences.STUDY_COACH)),
            website.make(),
        ):
            application.include(part)
        return application

    def facts(self, server: Server) -> dict[str, Any]:
        """What a client needs to know, as plain data."""
        url = server.addresses[0].url
        token = partial(make_token, self.settings.secret, audience=audiences.PAGES)
        lifetime = self.settings.token_lifetime
        http = "http" + url.removeprefix("ws")
        return {
            "http": http,
            "ws": url,
            "tokens": {
                **{
                    user: token(subject=user, lifetime=lifetime, claims=CLAIMS.get(user, {}))
                    for user in USERS
                },
                "alice_expired": token(subject="alice", lifetime=_EXPIRED_FOR),
            },
            "conversations": SEED,
            "passwords": self.passwords,
            "pages": {"index": f"{http}/", **{name: f"{http}/{name}" for name in website.PAGES}},
            "mpin": MPIN,
        }


async def _is_user(user: str) -> bool:
    return user in USERS


@click.command("demo")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="NUMBER", help="0 picks one.  [default: 8765]")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory for the database. Without it, all is forgotten at the end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, once it is ready.")
@click.option(
    "--trust-user-id",
    is_flag=True,
    help="Believe a bare user_id in a conversation's first message. On loopback addresses only.",
)
@logging_options
def command(
    host: str | None,
    port: int | None,
    data: Path | None,
    as_json: bool,
    trust_user_id: bool,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run the examples, with users and conversations to try them on.

    Prints what to type next. The database is SQLite, in --data DIR or in a temporary directory.
    TRIOSERVER_SECRET signs the tokens; without it a secret is made for this run.
    TRIOSERVER_DEMO_PASSWORD is everybody's password; without it each gets one for this run.
    TRIOSERVER_TOKEN_LIFETIME is their lifetime, in seconds. With TRIOSERVER_COACH_URL the study
    coach asks an OpenAI-compatible endpoint.

    \b
    Examples:
      trioserver demo
      trioserver demo --port 0 --json
      trioserver demo --trust-user-id
    """
    arguments = {"host": host, "port": port, "log.format": log_format, "log.level": log_level}
    config = load_settings(None, arguments).config
    set_up_logging(
        format=config.log.format,
        level=config.log.level,
        exception_messages=config.log.exception_messages,
    )
    with tempfile.TemporaryDirectory(prefix="trioserver-") as temporary:
        directory = _directory(data or Path(temporary))
        demo = Demo(_settings(), directory, trust_user_id, _passwords())
        if config.audit.database is None:
            config = attrs.evolve(
                config, audit=attrs.evolve(config.audit, database=demo.database_url)
            )
        if not config.origins.hosts and all(is_loopback(each.host) for each in config.listeners):
            # Pages of others must not reach it by names of theirs that resolve to this machine.
            config = attrs.evolve(config, origins=attrs.evolve(config.origins, hosts=(LOOPBACK,)))
        try:
            application = demo.application()
        except ValueError as error:
            raise Failure(str(error), Exit.CONFIGURATION) from None
        run_server(application, config, announce=partial(_announce, demo, as_json))


def _directory(path: Path) -> Path:
    try:
        make_directory(path)
    except OSError as error:
        raise Failure(
            f"cannot make the directory {path} ({error.strerror}): choose another with --data",
            Exit.CONFIGURATION,
        ) from None
    return path


def _settings() -> agents.Settings:
    """From the environment; a secret that is not there is made, one that is bad is refused."""
    try:
        settings = agents.Settings.from_environment()
    except ValueError as error:
        raise Failure(str(error), Exit.CONFIGURATION) from None
    if agents.SECRET_VARIABLE in os.environ:
        return settings  # whether it is a good one, the applications will say
    log.warning(
        "development_secret_created",
        hint="tokens are valid for this run only; set TRIOSERVER_SECRET to keep them valid",
    )
    return agents.Settings(secret=make_secret(), token_lifetime=settings.token_lifetime)


def _passwords() -> dict[str, str]:
    """The one from the environment for all, or one for each."""
    given = os.environ.get(PASSWORD_VARIABLE)
    return {user: given or secrets.token_urlsafe(9) for user in USERS}


def _announce(demo: Demo, as_json: bool, server: Server) -> None:
    facts = demo.facts(server)
    if as_json:
        print_json(facts)
    else:
        _print_next_steps(demo, facts, server)


def _print_next_steps(demo: Demo, facts: dict[str, Any], server: Server) -> None:
    """What to type next; nothing is wrapped, so that it can be copied."""
    program, url, tokens = _program(), facts["ws"], facts["tokens"]
    conversation = f"{url}/ws/conversations/{SEED['alice'][0]}"
    lines = [
        f"[bold green]trioserver demo[/] at [bold]{url}[/]",
        *_for_others(server),
        *(f"{user} has: {', '.join(ids)}" for user, ids in SEED.items()),
        f"Tokens live {in_words(demo.settings.token_lifetime)}. Ctrl-C ends it.",
        f"The protocol, to read: [bold]{facts['http']}/protocol[/]; for probes: /healthz, /readyz.",
        "",
        f"[bold]In a browser[/]: [bold]{facts['pages']['index']}[/]",
        *(
            f"  {user}, password: [cyan]{escape(word)}[/]"
            for user, word in facts["passwords"].items()
        ),
        *(f"  {name}: {page}" for name, page in facts["pages"].items() if name != "index"),
        "",
        "[bold]In another terminal[/]",
        "",
        f"  [cyan]export ALICE={tokens['alice']}[/]",
        "",
        f"  [cyan]{program} connect {conversation} --token $ALICE[/]",
        '  then type, say:  [cyan]message {"text": "I like trees"}[/]',
        '                   [cyan]ask {"text": "What about trees?"}[/]',
        "                   [cyan]history[/]",
        "",
        f"  [cyan]{program} connect {url}/ws --token $ALICE[/]",
        '  then type, say:  [cyan]run {"agent": "reverse", "input": "hello"}[/]',
        "",
        f"  [cyan]{program} connect {url}{admin_dashboard.PATH} --token {tokens['admin']}[/]",
        "  then type, say:  [cyan]list_attempts[/]",
        "",
        f"  [cyan]curl {facts['http']}/api/v1/mpin-login --json '{json.dumps(MPIN)}'[/]",
        f"  and connect to {url}{behavior_log.PATH.format(session_id='SESSION_ID')}",
        "",
        f'  [cyan]curl -H "Authorization: Bearer $ALICE" -F file=@notes.md {facts["http"]}'
        f"{study_coach.TEXTS}[/]",
        f"  [cyan]{program} connect {url}{study_coach.PATH} --token $ALICE[/]",
        '  then type, say:  [cyan]ask {"text": "What do my notes say about this?"}[/]',
        "",
        f"  [cyan]{program} check {conversation} --token $ALICE --expired {tokens['alice_expired']}"
        f" --other-url {url}/ws/conversations/{SEED['bob'][0]}[/]",
    ]
    if demo.trust_user_id:
        lines += ["", "Any client may say who it is, in its first message:"]
        lines += ['  [cyan]{"type":"initial","user_id":"alice"}[/]']
    console = stdout_console()
    for line in lines:
        console.print(line, soft_wrap=True)
    sys.stdout.flush()


def _for_others(server: Server) -> list[str]:
    """Where others reach it, and what they do not."""
    if not is_public(server.addresses):
        return []
    outward = [outward_address(each) for each in server.addresses if each.is_everywhere]
    found = [f"For others: [bold]{each.url}[/]" for each in outward if each is not None]
    private = what_is_private(server.config.http)
    return found if private is None else [*found, private]


def _program() -> str:
    """How this program was called, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    if called.name != "trioserver":
        return "trioserver"
    relative = os.path.relpath(called)
    return relative if "/" in sys.argv[0] and not relative.startswith("..") else "trioserver"
