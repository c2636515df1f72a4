"""docs/systems.md: its commands run as one script, and the tests that it names are there."""

from __future__ import annotations

import ast
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

SYSTEMS = Path("docs/systems.md")
BIN = Path(sys.executable).parent

WAIT = (
    "for _ in $(seq 600); do (: < /dev/tcp/127.0.0.1/$TRIOSERVER_PORT) 2>/dev/null && break; "
    "sleep 0.1; done"
)


SAID_BY_CHAT = (
    '"kind":"tool_call"',
    "I like trees",
    "exit code 3",
    "exit code 3",
    '"type":"shared"',
    '"user":"bob"',
    '"value":"olleh"',
    '"count_words"',
    "exit code 4",
    "exit code 3",
    "exit code 4",
    '"passages":2',
    '"kind":"passage"',
    "chlorophyll.",
    "\n403\n",
)
"""What the commands of sections 3, 4 and 5 print, in this order."""


def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    port = str(free_port())
    start, *steps = blocks(SYSTEMS, "sh")
    # The server needs a moment that a person takes anyway.
    script = "\n".join(
        ["set -e -o pipefail", start, "server=$!", "trap 'kill $server; wait' EXIT", WAIT, *steps]
    )
    with subprocess.Popen(
        ["bash", "-c", script.replace(":8765/", f":{port}/")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "TRIOSERVER_PORT": port,
            "TRIOSERVER_ADMIN_URL": f"http://127.0.0.1:{port}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # what it has started ends with it
    ) as walk:
        try:
            output, errors = walk.communicate(timeout=5 * PATIENCE)
        except BaseException:
            os.killpg(walk.pid, signal.SIGKILL)
            raise
    assert walk.returncode == 0, errors
    acknowledged = '{"type":"ack","id":"e1","data":{"event_type":"key_press","status":"processed"}}'
    assert output.count(acknowledged) == 2
    assert "ACCEPTED" in output
    assert "exit code 11" in output
    assert '{"type":"stats_update","data":{"connections":' in output
    assert '{"valid":true,"user":{"id":"admin"' in output
    assert '{"attempts":[{"at":' in output
    place = output.index('{"attempts":[{"at":')
    for words in SAID_BY_CHAT:
        place = output.find(words, place)
        assert place >= 0, f"{words!r} is not in its place in:\n{output}"
    assert errors.count("Conversation not found or access denied") >= 2
    assert "well-known placeholder" in errors


def _rows() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of each fact, the tests that are named and the files that they may be in."""
    rows = []
    for section in (ROOT / SYSTEMS).read_text().split("| fact | test")[1:]:
        heading, _, *facts = section.split("\n\n")[0].splitlines()
        for fact in facts:
            cell = fact.split("|")[-2]
            files = re.findall(r"`(tests/\S+\.py)`", heading + cell)
            rows.append((tuple(re.findall(r"`(test_\w+)`", cell)), tuple(files)))
            assert rows[-1][0] or "tests/" in cell, f"no test is named: {fact}"
    return rows


@pytest.mark.parametrize(("names", "files"), _rows())
def test_each_fact_names_a_test_that_is_there(
    names: tuple[str, ...], files: tuple[str, ...]
) -> None:
    known = {
        node.name
        for file in files
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert set(names) <= known
