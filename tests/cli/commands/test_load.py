"""`trioserver load`, against a server in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.load.app import SECRET
from tests.support.markdown import ROOT
from tests.support.patience import PATIENCE
from trioserver.auth import make_token
from trioserver.cli.main import main

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of the running application, with a place for the client's number."""
    with subprocess.Popen(
        [BIN / "trioserver", "serve", "tests.load.app:make", "--port", "0", "--log-level", "error"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "TRIOSERVER_SHUTDOWN_DRAIN_PERIOD": "0",
            "TRIOSERVER_LIMITS_MESSAGES_PER_SECOND": "1000000",
        },
    ) as process:
        assert process.stdout is not None
        found = re.match(r"listening on (ws://\S+)", process.stdout.readline())
        assert found is not None
        yield f"{found[1]}/ws/rooms/{{client}}"
        process.terminate()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSERVER_SECRET", SECRET)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["load", *arguments], catch_exceptions=False)


def test_two_processes_give_one_object_and_one_page(url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = run(url, "-n", "50", "--processes", "2", "--rate", "200", "--duration", "0.3",
               "--type", "echo", "--data", '{"text": "{client} {seq}"}', "--storm",
               "--json", "--report", str(report), "-q")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["counts"]["answered"] == found["latencies"]["request"]["count"] == 60
    assert found["latencies"]["ready"]["count"] == found["latencies"]["ready_again"]["count"] == 50
    assert found["counts"]["ready"] == 50
    assert found["plan"]["processes"] == 2
    assert SECRET not in done.output
    assert "<svg" in report.read_text("utf-8")


def test_more_failures_than_allowed_are_a_failure(url: str, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(make_token(SECRET, subject="a") + "\n\nrubbish\n")
    arguments = (url, "-n", "4", "--tokens-file", str(tokens), "--duration", "0", "-q")
    done = run(*arguments)
    assert done.exit_code == 1
    assert "2  not ready 1008 token_invalid" in done.stdout
    assert "2 clients and requests failed" in done.stderr
    assert run(*arguments, "--max-errors", "2").exit_code == 0


def test_ctrl_c_ends_it_with_the_figures_so_far(url: str) -> None:
    with subprocess.Popen(
        [BIN / "trioserver", "load", url, "-n", "5", "--in-flight", "1", "--duration", "1h",
         "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    found = json.loads(out)
    assert found["interrupted"] is True
    assert found["counts"]["answered"] > 0
    assert 0 < found["measured_seconds"] < 60


def test_another_machine_is_refused_before_anything_is_sent() -> None:
    done = run("ws://192.0.2.1/ws", "-q")
    assert done.exit_code == 1
    assert "--i-own-this-host" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "1", "--in-flight", "1"], "--rate and --in-flight cannot be combined"),
        (["--publish", "news"], "--publish needs --rate"),
        (["--publish", "news", "--rate", "1", "-n", "1"], "use more clients"),
        (["--data", "{"], "not valid JSON"),
        (["--token", "x", "--secret", "y"], "cannot be combined"),
        (["--token-command", "'"], "--token-command"),
        (["--cafile", __file__], "wss://"),
        (["--duration", "-1s"], "--duration is -1 s; it must not be below 0 s"),
        (["-n", "2", "--processes", "3"], "each process needs a client"),
    ],
)
def test_what_does_not_fit_together_is_a_usage_error(arguments: list[str], words: str) -> None:
    done = run("ws://127.0.0.1:1/ws", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_weak_secret_and_a_missing_file_are_said_in_a_sentence(tmp_path: Path) -> None:
    weak = run("ws://127.0.0.1:1/ws", "--secret", "hush-hush")
    assert weak.exit_code == 3
    assert "shorter than 32 bytes" in weak.stderr
    assert "hush" not in weak.output
    missing = run("ws://127.0.0.1:1/ws", "--tokens-file", str(tmp_path / "none"))
    assert missing.exit_code == 3
    nowhere = run("ws://127.0.0.1:1/ws", "--report", str(tmp_path / "none" / "r.html"))
    assert nowhere.exit_code == 1
    assert "directory" in nowhere.stderr


def test_without_its_library_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['hdrh'] = None\n"
        "from trioserver.cli.main import main\n"
        "main(['load', 'ws://127.0.0.1:1/'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "pip install 'trioserver[load]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_where_nobody_listens_that_is_said_at_once() -> None:
    done = run("ws://127.0.0.1:1/ws")
    assert done.exit_code == 1
    assert "cannot connect to 127.0.0.1:1" in done.stderr
