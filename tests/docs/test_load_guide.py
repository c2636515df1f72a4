"""The commands of docs/load.md, run as they stand; only port, numbers and durations are smaller."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.markdown import ROOT, blocks
from trioserver.cli.commands.load import command as load
from trioserver.cli.main import main
from trioserver.load.recorder import LATENCIES

LOAD = Path("docs/load.md")
BIN = Path(sys.executable).parent
COMMANDS = [block.strip() for block in blocks(LOAD, "sh load")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """What to put in the place of host and port; the secret. It is served as the page says."""
    directory = tmp_path_factory.mktemp("load")
    (directory / "room.py").write_text(blocks(LOAD, "python")[0])
    script = blocks(LOAD, "sh")[0].strip().removesuffix("&")
    *exports, serve = script.splitlines()
    lines = [*exports, 'echo "$TRIOSERVER_SECRET"', f"exec {serve} --port 0 --log-level error"]
    with subprocess.Popen(
        ["bash", "-ec", "\n".join(lines)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(directory),
            "TRIOSERVER_SHUTDOWN_DRAIN_PERIOD": "0",
        },
    ) as process:
        assert process.stdout is not None
        secret = process.stdout.readline().strip()
        found = re.match(r"listening on ws://(\S+)", process.stdout.readline())
        assert found is not None
        yield found[1], secret
        process.terminate()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_does_what_it_says(
    command: str, server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIOSERVER_SECRET", server[1])
    small = re.sub(r"-n \d+", "-n 20", command.replace("127.0.0.1:8765", server[0]))
    small = re.sub(r" --duration \S+", "", small)
    program, *arguments = shlex.split(small)
    assert program == "trioserver"
    done = CliRunner().invoke(main, [*arguments, "-q", "--duration", "0.1s"])
    assert done.exit_code == 0, done.output
    if "--json" in arguments:
        assert json.loads(done.stdout)["counts"]["ready"] == 20
    else:
        assert re.search(r"^ready +20 ", done.stdout, re.MULTILINE)
    if "--report" in arguments:
        assert "</html>" in (tmp_path / "load.html").read_text("utf-8")


def test_the_page_tells_of_every_figure_and_of_no_option_that_there_is_not() -> None:
    text = (ROOT / LOAD).read_text()
    for name in LATENCIES:
        assert f"| `{name}` |" in text
    known = {option for parameter in load.params for option in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= known
