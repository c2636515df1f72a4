"""The README's programs and commands, run as they stand; only the port is another."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, blocks
from tests.support.patience import PATIENCE
from tests.support.ports import free_port

README = Path("README.md")
BIN = Path(sys.executable).parent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the README's programs, under the names that their first lines give."""
    for block in blocks(README, "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None, "each program says its name"
        (tmp_path / name[1]).write_text(block.replace("8765", str(_free_port(tmp_path))))
    return tmp_path


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """As a reader has it, with `trioserver` and `python` on the path."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TRIOSERVER_PORT": str(_free_port(directory)),
        "PYTHONPATH": str(directory),
    }


def _free_port(directory: Path) -> int:
    """One port for all that is written into this directory."""
    file = directory / "port"
    if not file.exists():
        file.write_text(str(free_port()))
    return int(file.read_text())


def test_the_first_programs_and_commands_do_what_the_readme_says(
    directory: Path, environment: dict[str, str]
) -> None:
    commands = blocks(README, "sh")[1]
    secret, serve, talk = commands.strip().splitlines()
    assert serve.endswith("&")
    # The server needs a moment that a person takes anyway.
    script = f"set -e\n{secret}\n{serve}\nserver=$!\n{_wait_for_port()}\n{talk}\nkill $server\nwait"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = re.search(r"prints `(.*?)`", (ROOT / README).read_text())
    assert promised is not None
    assert promised[1] in done.stdout.splitlines()


def _wait_for_port() -> str:
    return (
        "for _ in $(seq 100); do (: < /dev/tcp/127.0.0.1/$TRIOSERVER_PORT) 2>/dev/null && break; "
        "sleep 0.1; done"
    )


def test_the_embedded_program_runs_to_its_end(directory: Path, environment: dict[str, str]) -> None:
    environment["TRIOSERVER_SECRET"] = os.urandom(32).hex()
    done = subprocess.run(
        [sys.executable, "embedded.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "listening on ws://127.0.0.1:" in done.stdout


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", blocks(README, "sh")[0], re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_make_demo_prints_what_to_type_and_ends_on_ctrl_c() -> None:
    lines: list[str] = []
    with subprocess.Popen(
        [BIN / "trioserver", "demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "check ws://" not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended early"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
    text = "".join(lines)
    for command in ("connect ws://", "check ws://", "export ALICE="):
        assert command in text
