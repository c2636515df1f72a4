"""Everybody else's clients, as they come: each opens, authenticates, asks and closes.

A client that this machine does not have is skipped, and says what to install; in CI that is a
failure.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.browser.world import chromium, find_chromium
from tests.interop.conversation import QUESTION
from tests.interop.python_clients import CLIENTS
from tests.server.operations.processes import Process, launched
from tests.support.markdown import ROOT
from trioserver.auth import make_secret, make_token

HERE: Final = ROOT / "tests" / "interop"
SECRET: Final = make_secret()
PATIENCE: Final = 120.0  # seconds; Java compiles its file first

MODULES: Final = {"websocket-client": "websocket", "websockets, asyncio": "websockets"}


def left_out(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    return found or left_out(f"needs {name}: {package}")


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """With its defaults, but for pages from files."""
    log = tmp_path_factory.mktemp("interop") / "log"
    with launched(
        [sys.executable, "-m", "trioserver", "serve", "tests.interop.app:make", "--port", "0"],
        log,
        cwd=ROOT,
        environment={
            "INTEROP_SECRET": SECRET,
            "TRIOSERVER_LOG_LEVEL": "debug",
            "TRIOSERVER_ORIGINS_ALLOW": "same-host,file://,null",
            "TRIOSERVER_SHUTDOWN_DRAIN_PERIOD": "0.1",
        },
    ) as process:
        yield process
        process.signal(signal.SIGTERM)


@contextmanager
def one_more(server: Process) -> Iterator[str]:
    """Where the server is; at the end it has seen one more connection close as it should.

    Not a fixture: a test that is skipped makes no connection.
    """
    before = len(closes(server))
    yield f"{server.url}/ws"
    deadline = time.monotonic() + PATIENCE
    while len(closes(server)) == before and time.monotonic() < deadline:
        time.sleep(0.02)  # the client may be gone before the server has written its line
    assert closes(server)[before:] == ["1000"]


def closes(server: Process) -> list[str]:
    """The codes of the connections that have ended."""
    lines = [line for line in server.log.splitlines() if "connection_closed" in line]
    return [found[1] for line in lines if (found := re.search(r'"code": ?(\d+)', line))]


@pytest.fixture
def token() -> str:
    return make_token(SECRET, subject="alice")


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_of_python(name: str, server: Process, token: str) -> None:
    module = MODULES.get(name, name.partition(",")[0].replace("-", "_"))
    if find_spec(module) is None:
        left_out(f"needs {module}: pip install -e '.[test]'")
    with one_more(server) as url:
        answer = run(sys.executable, "-m", "tests.interop.python_clients", name, url, token)
    assert answer in (f"{QUESTION} | 1000", f"{QUESTION} | None")


@pytest.mark.parametrize("name", ["ws", "undici", "built in"])
def test_a_client_of_node(name: str, server: Process, token: str) -> None:
    node = program("node", "https://nodejs.org")
    if name != "built in" and not (HERE / "node_modules" / name).is_dir():
        left_out(f"needs the npm package {name}: make test installs it")
    options = ["--experimental-websocket"] if name == "built in" else []
    client = HERE / "node_clients.mjs"
    with one_more(server) as url:
        answer = run(node, "--no-warnings", *options, client, name, url, token, QUESTION)
    assert answer == f"{QUESTION} | 1000"


def test_the_client_of_java_as_it_comes(server: Process, token: str) -> None:
    """It also asks over HTTP, with an offer of HTTP/2 in each request."""
    java = program("java", "a JDK, 11 or newer")
    if shutil.which("javac") is None:
        left_out("needs a JDK, 11 or newer: this machine has only what runs compiled programs")
    # What is not ASCII is not passed to older ones in an argument.
    with one_more(server) as url:
        lines = run(java, "-Dfile.encoding=UTF-8", HERE / "Client.java", url, token, "Hello")
    assert lines.splitlines() == ["POST Hello", "GET", "Hello | 1000"]


@pytest.mark.parametrize("options", [[], ["--http2"], ["--http1.0"]], ids=" ".join)
def test_curl(options: list[str], server: Process) -> None:
    curl = program("curl", "apt-get install curl")
    http = server.url.replace("ws://", "http://") + "/site"
    for method, body in (("GET", []), ("POST", ["--data", "Hello"])):
        answer = run(curl, "--silent", "--show-error", "--fail", *options, *body, http)
        assert answer == f"{method} {'Hello' if body else ''}".strip()


def test_curl_opens_a_websocket(server: Process) -> None:
    curl = program("curl", "apt-get install curl")
    if " ws" not in run(curl, "--version"):
        pytest.skip("this curl was built without WebSockets, as those before 8.11 mostly are")
    command = [curl, "--silent", "--no-buffer", "--max-time", "5", f"{server.url}/ws"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert b'"hello"' in done.stdout


@pytest.mark.parametrize("page", ["of the server", "of a file"])
def test_chromium(page: str, server: Process, token: str, tmp_path: Path) -> None:
    path = find_chromium()
    if path is None:
        left_out("needs Chromium in the PATH: apt-get install chromium")
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>page</title>")
    place = file.as_uri() if page == "of a file" else server.url.replace("ws://", "http://")
    converse = (HERE / "conversation.mjs").read_text().replace("export function", "function")
    with one_more(server) as url, chromium(path) as browser:
        tab = browser.new_page()
        tab.goto(place)
        answer = tab.evaluate(
            f"([url, token, question]) => {{ {converse}; "
            "return converse(WebSocket, url, token, question); }",
            [url, token, QUESTION],
        )
    assert answer == f"{QUESTION} | 1000"
