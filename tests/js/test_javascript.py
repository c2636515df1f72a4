"""The JavaScript client in Node: its syntax, the transcripts, its own life, a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from protocol.errors import ERRORS
from protocol.generate.descriptions import EXAMPLES
from protocol.generate.schema import CLIENT as CLIENT_MESSAGES
from protocol.generate.schema import SERVER as SERVER_MESSAGES
from protocol.transcript import TOKENS, load, names
from tests.support.markdown import ROOT, blocks
from tests.support.wire_messages import complaint

HERE: Final = ROOT / "tests" / "js"
STATIC: Final = ROOT / "trioserver" / "http" / "static"
CLIENT: Final = STATIC / "trioserver.js"
MODULES: Final = sorted((STATIC / "trioserver").glob("*.js"))
OLDEST: Final = 20


@pytest.fixture(scope="module")
def node() -> str:
    """Where Node is. Missing, these tests are skipped; in CI that is a failure."""
    found = shutil.which("node")
    reason = f"needs Node.js {OLDEST} or newer: https://nodejs.org"
    if found is not None:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        if int(version.stdout.lstrip("v").partition(".")[0]) >= OLDEST:
            return found
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command: str | Path, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    "path", [CLIENT, *MODULES, *sorted(HERE.glob("*.mjs"))], ids=lambda path: path.name
)
def test_the_syntax_is_good(node: str, path: Path) -> None:
    done = run(node, "--check", path)
    assert done.returncode == 0, done.stderr


def passed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tests of Node's passed; none may fail."""
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    counts = dict(re.findall(r"^# (\w+) (\d+)$", done.stdout, re.MULTILINE))
    assert (counts["fail"], counts["skipped"], counts["todo"]) == ("0", "0", "0")
    return int(counts["pass"])


def test_it_keeps_to_every_transcript(node: str) -> None:
    done = run(node, "--test", "--test-reporter=tap", HERE / "transcripts.test.mjs")
    assert passed(done) >= 2 * len(names())
    for name in names():
        assert done.stdout.count(f"- {name}.json: ") >= 2


def test_it_lives_as_its_guide_says(node: str) -> None:
    assert passed(run(node, "--test", "--test-reporter=tap", HERE / "client.test.mjs")) > 60


def test_the_schemas_compile_in_the_strict_mode_of_ajv_and_take_every_message(
    node: str, tmp_path: Path
) -> None:
    if not (HERE / "node_modules" / "ajv").is_dir():
        reason = "needs Ajv, which `make test` installs with npm"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    sides = {"ClientMessage": CLIENT_MESSAGES, "ServerMessage": SERVER_MESSAGES}
    lines = [
        {"schema": side, "message": EXAMPLES[struct.__name__]}
        for side, structs in sides.items()
        for struct in structs
    ]
    lines += [
        {"schema": f"{step.sender.capitalize()}Message", "message": json.loads(payload)}
        for name in names()
        for step in load(name).steps
        if step.sender == "client" and step.message is not None
        if (payload := step.payload({token: token for token in TOKENS})) is not None
        and complaint("ClientMessage", payload) is None
    ]
    file = tmp_path / "messages.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", HERE / "schemas.test.mjs"],
        env={**os.environ, "MESSAGES": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert passed(done) == 3
    assert len(lines) > 150


def test_its_table_of_errors_is_the_protocols(node: str) -> None:
    program = f"import {{ ERRORS }} from {str(CLIENT)!r}; console.log(JSON.stringify(ERRORS))"
    done = run(node, "--input-type=module", "--eval", program)
    assert json.loads(done.stdout) == {
        row.name: [row.close_code, row.retry, row.message] for row in ERRORS.values()
    }


def code_of(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("*"))


@pytest.mark.parametrize("path", [CLIENT, *MODULES], ids=lambda path: path.name)
def test_it_imports_only_its_own_modules_and_writes_nothing_to_the_console(path: Path) -> None:
    code = code_of(path)
    for name in re.findall(r"""(?:from|import)\s*\(?\s*["'](.+?)["']""", code):
        assert (path.parent / name).resolve() in MODULES
    assert "console." not in code
    assert "localStorage" not in code


@contextmanager
def demo(data: Path, port: int = 0) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "trioserver", "demo", "--json", "--data", str(data)]
    secret = "the-secret-of-this-test-" + "0123456789abcdef" * 2
    with subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TRIOSERVER_SECRET": secret},
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline()), process
        finally:
            process.kill()


def test_it_talks_to_a_real_server_and_comes_back_to_it(node: str, tmp_path: Path) -> None:
    said: list[Any] = []
    with subprocess.Popen(
        [node, HERE / "end_to_end.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as page:
        assert page.stdin is not None
        assert page.stdout is not None

        def tell(fact: object) -> None:
            print(json.dumps(fact), file=page.stdin, flush=True)

        def hear(until: object) -> None:
            before = len(said)
            while until not in said[before:]:
                line = page.stdout.readline()  # type: ignore[union-attr]
                assert line, f"it ended after {said}"
                said.append(json.loads(line))

        try:
            with demo(tmp_path) as (facts, server):
                tell(facts)
                hear("stop it")
                server.send_signal(signal.SIGKILL)
                server.wait()
                hear({"state": "offline"})
            tell("stopped")
            hear({"queued": 1})
            with demo(tmp_path, int(facts["ws"].rpartition(":")[2])):
                tell("started")
                hear({"closed": "closed"})
        finally:
            page.kill()
    refusals = [each["refused"].split(":")[0] for each in said if "refused" in each]
    assert refusals == ["token_invalid", "access_denied", "token_expired"]
    assert {"user": "alice", "heartbeat": "message"} in said
    assert {"kinds": ["tool_call", "tool_result", "text", "text"], "ping": True} in said
    states = [each["state"] for each in said if "state" in each]
    assert states[:5] == [
        "connecting",
        "authenticating",
        "offline",
        "reconnecting",
        "authenticating",
    ]
    assert states[-3:] == ["authenticating", "ready", "closed"]
    (end,) = [each for each in said if "times" in each]
    assert (end["later"], end["times"]) == (True, 1)
    assert not any(token in json.dumps(said) for token in facts["tokens"].values())


def test_the_examples_of_its_guide_are_good_javascript(node: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(Path("docs/javascript.md"), "js")):
        path = tmp_path / f"block{number}.mjs"
        path.write_text(block)
        done = run(node, "--check", path)
        assert done.returncode == 0, done.stderr


def test_the_wheel_ships_it(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    built = next(iter(hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))))
    with zipfile.ZipFile(built) as wheel:
        for path in (CLIENT, *MODULES):
            name = path.relative_to(ROOT).as_posix()
            assert wheel.read(name) == path.read_bytes()
