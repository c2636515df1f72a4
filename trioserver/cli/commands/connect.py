"""`trioserver connect`: open a connection, send lines, print messages."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from functools import partial
from typing import Any, Final

import click
import trio
from msgspec import to_builtins
from rich.console import Console
from rich.text import Text

from protocol.errors import ERRORS, Retry
from protocol.fields import HeartbeatMode
from protocol.messages import Auth
from trioserver.cli.conversation.lines import read_lines
from trioserver.cli.conversation.talk import Screen, Talk
from trioserver.cli.output.terminal import print_json, stderr_console, stdout_console
from trioserver.cli.parameters.tokens import read_token, token_options
from trioserver.cli.parameters.urls import parse_url
from trioserver.client import CloseReason, WebSocketURL
from trioserver.client.raw import RawConnection, open_raw
from trioserver.logs.printable import printable


class Ended(IntEnum):
    """Exit codes: how the connection ended."""

    NORMALLY = 0
    REFUSED = 3
    TOKEN = 4
    LOST = 5


_ENDED: Final[dict[Retry, Ended]] = {
    "never": Ended.REFUSED,
    "refresh_token": Ended.TOKEN,
    "backoff": Ended.LOST,
}
_ADVICE: Final[dict[Retry, str]] = {
    "never": "Trying again does not help.",
    "refresh_token": "Fetch a new token and connect again.",
    "backoff": "Try again later.",
}
_STYLES: Final = {"error": "red", "ready": "green", "hello": "green", "goaway": "yellow"}


@click.command("connect")
@click.argument("url")
@token_options
@click.option(
    "--initial",
    metavar="JSON",
    help="Fields of the first message, as a JSON object; they override those of auth.",
)
@click.option(
    "--heartbeat",
    type=click.Choice(["frame", "message"]),
    default="frame",
    show_default=True,
    help="How the server pings: with WebSocket Ping frames, or with ping messages.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=10.0,
    show_default=True,
    help="Seconds to connect.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for responses after the last line. 0 does not wait.",
)
@click.option("--json", "as_json", is_flag=True, help="Print messages unchanged, one per line.")
def command(
    url: str,
    token: str | None,
    token_file: str | None,
    initial: str | None,
    heartbeat: HeartbeatMode,
    timeout: float,
    wait: float,
    as_json: bool,
) -> None:
    """Connect to the server at URL, send each line of stdin, and print each message.

    With a token or --initial, the command sends auth first; otherwise the first line is the first
    message. A line is `type {json}` or a JSON object, and gets an id if it has none. Any other
    line is sent unchanged. At the end of stdin, the command waits for the responses and closes.
    With --json, the last line has the type "closed" and contains the close code and the reason.

    \b
    Exit codes:
      0  closed normally
      2  the command line is wrong
      3  refused; trying again does not help
      4  refused; connect with a new token
      5  connection lost, server unreachable, or no response; try again later

    \b
    Examples:
      trioserver connect ws://127.0.0.1:8765/ws --token-file token.txt
      echo 'ping' | trioserver connect ws://127.0.0.1:8765/ws --json
      trioserver connect ws://127.0.0.1:8765/ws \\
        --initial '{"type": "initial", "user_id": "a"}'
    """
    address = parse_url("URL", url)
    first = _first_message(read_token(token, token_file), initial, heartbeat)
    screen = _JsonScreen() if as_json else _TextScreen(stdout_console(), stderr_console())
    reason = trio.run(partial(_talk, address, screen, first=first, timeout=timeout, wait=wait))
    ended = Ended.NORMALLY if reason.is_normal else _ENDED[reason.retry]
    screen.ended(reason, ended)
    raise click.exceptions.Exit(ended)


def _first_message(
    token: str | None, initial: str | None, heartbeat: HeartbeatMode
) -> dict[str, Any] | None:
    fields: Any = {}
    if initial is not None:
        try:
            fields = json.loads(initial)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise click.UsageError(
                '--initial must be a JSON object, for example \'{"type": "initial"}\''
            )
    elif token is None:
        return None
    return {**to_builtins(Auth(token=token, heartbeat=heartbeat)), **fields}


async def _talk(
    address: WebSocketURL,
    screen: Screen,
    *,
    first: dict[str, Any] | None,
    timeout: float,
    wait: float,
) -> CloseReason:
    async with trio.open_nursery() as nursery:
        connection = await open_raw(nursery, address, timeout=timeout)
        if isinstance(connection, RawConnection):
            try:
                talk = Talk(connection, screen, first=first, wait=wait)
                reason = await talk.run(read_lines(sys.stdin))
            finally:
                await connection.aclose()
        else:
            reason = connection
        nursery.cancel_scope.cancel()
    return reason


def in_words(reason: CloseReason) -> str:
    """How the connection ended, and what to do next."""
    if reason.is_normal:
        return reason.message
    row = ERRORS.get(reason.code)
    code = "" if reason.close_code is None else f" with {reason.close_code}"
    advice = _ADVICE[reason.retry] if row is None else row.advice
    return f"Closed{code}, {reason.code}: {reason.message.rstrip('.')}. {advice}"


class _JsonScreen:
    """Prints one JSON object per line."""

    def received(self, text: str, message: dict[str, Any] | None) -> None:
        if message is None or not text.isprintable():
            print_json({"raw": text} if message is None else message)
        else:
            click.echo(text)

    def note(self, text: str) -> None:
        pass

    def ended(self, reason: CloseReason, ended: Ended) -> None:
        print_json({
            "type": "closed",
            "close_code": reason.close_code,
            "code": reason.code,
            "message": reason.message,
            "retry": reason.retry,
            "exit_code": int(ended),
        })  # fmt: skip


class _TextScreen:
    """Prints messages to stdout and everything else to stderr."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err

    def received(self, text: str, message: dict[str, Any] | None) -> None:
        kind = "" if message is None else str(message.get("type"))
        shown = Text("< ", "dim")
        shown.append(printable(_summary(message) or text), _STYLES.get(kind, ""))
        self._out.print(shown, soft_wrap=True)

    def note(self, text: str) -> None:
        self._err.print(Text(text, "dim"))

    def ended(self, reason: CloseReason, ended: Ended) -> None:
        style = "red" if ended is not Ended.NORMALLY else "dim"
        self._err.print(Text(printable(in_words(reason)), style), soft_wrap=True)


def _summary(message: dict[str, Any] | None) -> str | None:
    """A summary of `hello` or `ready`; None for other messages, and if fields are missing."""
    message = message or {}
    try:
        match message:
            case {"type": "hello", "protocol": protocol, "auth_timeout_ms": timeout}:
                greeting = message.get("message")
                said = "" if greeting is None else f": {greeting}"
                return f"hello: {protocol}, {timeout / 1000:g} s to authenticate{said}"
            case {"type": "ready", "user": user, "heartbeat": heartbeat, "limits": limits}:
                return (
                    f"ready: {json.dumps(user)} on {json.dumps(message['resource'])}, connection "
                    f"{message['connection_id']}, until {message['expires_at'] or 'the end'}, "
                    f"heartbeat by {heartbeat['mode']} each {heartbeat['interval_ms'] / 1000:g} s, "
                    f"messages up to {limits['max_message_bytes']} bytes"
                )
    except (KeyError, TypeError):
        pass
    return None
