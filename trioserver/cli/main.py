"""The command `trioserver`. Each subcommand is a module of `commands`, imported on use."""

from __future__ import annotations

import importlib
from typing import Any, Final

try:
    import click
    import rich as _rich  # noqa: F401 -- imported here, so that no command fails over it later
    import typed_settings as _typed_settings  # noqa: F401
except ModuleNotFoundError as error:
    raise SystemExit(
        f"trioserver: the command line needs {error.name}: pip install 'trioserver[cli]'"
    ) from None

from trioserver import __version__
from trioserver.cli.output.terminal import Exit, Failure, one_line
from trioserver.config.extras import MissingExtraError

_COMMANDS: Final = {
    "demo": "Run the example systems, with users and tokens.",
    "serve": "Run an application.",
    "connect": "Connect to a server and exchange messages with it.",
    "check": "Test whether a server follows the protocol.",
    "load": "Measure a server under load.",
    "token": "Make a token, or show what a token contains.",
    "secret": "Print a new random secret for signing tokens.",
    "audit": "Show authentications and administrative actions.",
    "admin": "Inspect a running server, and act on it.",
    "config": "Show the server's options, and where each comes from.",
}
"""The commands in the order of --help. The texts are here so that --help imports no command."""

_EXTRAS: Final = {"demo": "demo", "load": "load", "audit": "sql,cli"}
"""The extra that a command needs, if it is not ``cli``."""

_OURS: Final = ("trioserver", "protocol")


class _Commands(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            module: Any = importlib.import_module(f"trioserver.cli.commands.{cmd_name}")
        except (ModuleNotFoundError, MissingExtraError) as error:
            if error.name is not None and error.name.partition(".")[0] in _OURS:
                raise
            extra = _EXTRAS.get(cmd_name, "cli")
            raise Failure(
                f"`trioserver {cmd_name}` cannot start ({one_line(error)}): pip install "
                f"'trioserver[{extra}]'"
            ) from None
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except* KeyboardInterrupt:  # Trio has it in a group
            pass
        ctx.exit(Exit.INTERRUPTED)


@click.group(
    cls=_Commands,
    name="trioserver",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="trioserver")
def main() -> None:
    """A WebSocket server on Trio that authenticates every connection.

    \b
    Examples:
      trioserver demo                   # the examples, on port 8765
      trioserver serve chat:app         # your application, in chat.py
      trioserver connect ws://127.0.0.1:8765/ws --token TOKEN
      trioserver check ws://127.0.0.1:8765/ws --token TOKEN
      trioserver load ws://127.0.0.1:8765/ws -n 1000 --rate 5000
      trioserver token make alice --lifetime 1h
      trioserver secret
      trioserver audit --since 1h
      trioserver admin connections
      trioserver config --explain

    \b
    Exit codes:
      0    done
      1    the operation failed
      2    the command line is wrong
      3    an option or a secret has a value that cannot be used
      4    the application cannot be loaded
      5    the server cannot listen on the address
      6    the server cannot be reached (admin)
      7    the token is not accepted, or does not have the role (admin)
      130  interrupted with Ctrl-C
    The commands check and connect have exit codes of their own.
    """
