"""The command `trioserver` as a whole: its help, its exit codes, what it imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from tests.cli.conftest import Invoke
from tests.support.patience import PATIENCE
from trioserver import __version__
from trioserver.cli.main import main

WIDTH = 80


def command_at(path: list[str]) -> click.Command:
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def paths(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """All commands, and the subcommands of those that are groups."""
    yield [*path]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from paths(command, (*path, name))
        else:
            yield [*path, name]


@pytest.fixture(params=paths(main), ids=" ".join)
def path(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


def test_help_names_every_option(invoke: Invoke, path: list[str]) -> None:
    result = invoke(*path, "--help")
    assert result.exit_code == 0
    for parameter in command_at(path).params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in result.stdout


def test_help_describes_each_option_in_sentences(path: list[str]) -> None:
    for parameter in command_at(path).params:
        if isinstance(parameter, click.Option):
            assert parameter.help is not None, parameter.name
            assert parameter.help[0].isupper(), parameter.name
            assert parameter.help.endswith((".", "]")), parameter.name


def test_help_has_an_example(invoke: Invoke, path: list[str]) -> None:
    _, _, below_usage = invoke(*path, "--help").stdout.partition("\n")
    assert " ".join(["trioserver", *path]) in below_usage


def test_help_wraps_at_80_columns(invoke: Invoke, path: list[str]) -> None:
    help = invoke(*path, "--help", terminal_width=WIDTH).stdout
    assert [line for line in help.splitlines() if len(line) > WIDTH] == []


def test_without_a_command_the_help_is_shown(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Exit codes:" in result.stderr


def test_the_help_lists_the_commands_without_importing_them() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from trioserver.cli.main import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "print('IMPORTED', [n for n in sys.modules if n.startswith('trioserver.cli.commands.')])"
    )
    printed = python("-c", code).stdout
    assert "  serve " in printed
    assert "  token " in printed
    assert "IMPORTED []" in printed


def test_making_a_token_imports_neither_the_server_nor_its_options_nor_the_storage() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from trioserver.auth import make_secret\n"
        "from trioserver.cli.main import main\n"
        "made = CliRunner().invoke(main, ['token', 'make', 'alice', '--secret', make_secret()])\n"
        "assert made.exit_code == 0, made.output\n"
        "rooms = ('app', 'server', 'http', 'storage', 'config.config', 'cli.settings')\n"
        "print('IMPORTED', [room for room in rooms if f'trioserver.{room}' in sys.modules])"
    )
    assert "IMPORTED []" in python("-c", code).stdout


def test_the_version_is_printed(invoke: Invoke) -> None:
    result = invoke("--version")
    assert result.stdout == f"trioserver, version {__version__}\n"


def test_an_unknown_command_is_a_wrong_command_line(invoke: Invoke) -> None:
    result = invoke("serv")
    assert result.exit_code == 2
    assert "serv" in result.stderr


def test_ctrl_c_is_130_and_no_traceback(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: Any) -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    monkeypatch.setattr(command_at(["secret"]), "callback", interrupted)
    assert invoke("secret").exit_code == 130


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys, trioserver\n"
        "for missing in ('click', 'rich', 'typed_settings'):\n"
        "    sys.modules[missing] = None\n"
        "    try:\n"
        "        import trioserver.cli.main\n"
        "    except SystemExit as error:\n"
        "        print(error)\n"
        "    del sys.modules[missing]\n"
    )
    assert python("-c", code).stdout.splitlines() == [
        f"trioserver: the command line needs {missing}: pip install 'trioserver[cli]'"
        for missing in ("click", "rich", "typed_settings")
    ]


def test_a_command_that_lacks_a_library_says_which_extra_has_it(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_module(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")

    monkeypatch.setattr(importlib, "import_module", import_module)
    result = invoke("demo")
    assert result.exit_code == 1
    assert "pip install 'trioserver[demo]'" in result.stderr


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
