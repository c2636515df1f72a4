"""The text that `trioserver demo` prints: URLs, passwords, and commands to try."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.markup import escape

from trioserver import Server
from trioserver.cli.demo.system import MPIN, SEED, Demo
from trioserver.cli.output.terminal import stdout_console
from trioserver.cli.output.times import in_words
from trioserver.cli.serving.addresses import is_public, outward_address, what_is_private
from trioserver.examples import admin_dashboard, behavior_log, study_coach


def print_next_steps(demo: Demo, facts: dict[str, Any], server: Server) -> None:
    """Print what to try next. Lines are not wrapped, so that they can be copied."""
    program, url, tokens = _program(), facts["ws"], facts["tokens"]
    conversation = f"{url}/ws/conversations/{SEED['alice'][0]}"
    lines = [
        f"[bold green]trioserver demo[/] at [bold]{url}[/]",
        *_for_others(server),
        *(f"{user} has: {', '.join(ids)}" for user, ids in SEED.items()),
        f"Tokens expire after {in_words(demo.settings.token_lifetime)}. Ctrl-C ends the demo.",
        f"The protocol: [bold]{facts['http']}/protocol[/]. Probes: /healthz, /readyz.",
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
        f"  [cyan]{program} check {conversation} --token $ALICE --expired "
        f"{tokens['alice_expired']} --other-url {url}/ws/conversations/{SEED['bob'][0]}[/]",
    ]
    if demo.trust_user_id:
        lines += ["", "Clients are trusted: the first message names the user:"]
        lines += ['  [cyan]{"type":"initial","user_id":"alice"}[/]']
    console = stdout_console()
    for line in lines:
        console.print(line, soft_wrap=True)
    sys.stdout.flush()


def _for_others(server: Server) -> list[str]:
    """The URLs for other machines, and the routes that they cannot use."""
    if not is_public(server.addresses):
        return []
    outward = [outward_address(each) for each in server.addresses if each.is_everywhere]
    found = [f"For others: [bold]{each.url}[/]" for each in outward if each is not None]
    private = what_is_private(server.config.http)
    return found if private is None else [*found, private]


def _program() -> str:
    """The command as it was called, so that the printed commands can be pasted."""
    called = Path(sys.argv[0])
    if called.name != "trioserver":
        return "trioserver"
    relative = os.path.relpath(called)
    return relative if "/" in sys.argv[0] and not relative.startswith("..") else "trioserver"
