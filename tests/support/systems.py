"""The demo in a process of its own, and a client of another library to talk to its systems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.patience import PATIENCE

COMMAND = [sys.executable, "-m", "trioserver", "demo", "--port", "0", "--json"]


@attrs.define
class Demo:
    """A demo that runs, and the object that it has printed."""

    facts: dict[str, Any]
    process: subprocess.Popen[str]
    log_file: Path

    @property
    def http(self) -> str:
        return str(self.facts["http"])

    def token(self, name: str) -> str:
        return str(self.facts["tokens"][name])

    def conversation(self, user: str, number: int = 0) -> str:
        return f"/ws/conversations/{self.facts['conversations'][user][number]}"

    @contextmanager
    def open(self, path: str, **options: Any) -> Iterator[Talk]:
        """A connection after its `hello`."""
        with connect(self.facts["ws"] + path, **options) as connection:
            talk = Talk(connection)
            talk.hello = talk.receive()
            assert talk.hello["type"] == "hello"
            yield talk

    @contextmanager
    def ready(self, path: str, user: str, **fields: Any) -> Iterator[Talk]:
        """A connection that is ready."""
        with self.open(path) as talk:
            talk.send(**{"type": "auth", "token": self.token(user), **fields})
            talk.ready = talk.receive()
            assert talk.ready["type"] == "ready", talk.ready
            yield talk

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()

    def log_until(self, word: str) -> str:
        """What it has logged up to now, which is waited for to hold a word."""
        deadline = time.monotonic() + PATIENCE
        while word not in (log := self.log_file.read_text()):
            assert time.monotonic() < deadline, log
            time.sleep(0.01)
        return log


@attrs.define
class Talk:
    """A connection, message by message; ``ignored`` are types that are not waited for."""

    connection: ClientConnection
    hello: dict[str, Any] = attrs.field(factory=dict)
    ready: dict[str, Any] = attrs.field(factory=dict)
    ignored: frozenset[str] = frozenset()

    def send(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def receive(self) -> dict[str, Any]:
        while True:
            message = json.loads(self.connection.recv(timeout=PATIENCE))
            assert isinstance(message, dict)
            if message["type"] not in self.ignored:
                return message

    def request(self, type: str, id: int | str = "r", **data: Any) -> dict[str, Any]:
        """The answer to a request; nothing else may come before it."""
        self.send(type=type, id=id, **({"data": data} if data else {}))
        answer = self.receive()
        assert answer.get("id") == id, answer
        return answer

    def stream(self, type: str, id: int | str = "s", **data: Any) -> list[dict[str, Any]]:
        """What a request is answered with, up to the `end` or the `error`."""
        self.send(type=type, id=id, data=data)
        answers = [self.receive()]
        while answers[-1]["type"] == "chunk":
            answers.append(self.receive())
        assert [answer["seq"] for answer in answers[:-1]] == list(range(len(answers) - 1))
        assert all(answer["id"] == id for answer in answers)
        return answers

    def refused(self) -> tuple[dict[str, Any], int, str]:
        """The error, and the close that follows: its code and its reason."""
        error = self.receive()
        with pytest.raises(ConnectionClosed) as closed:
            self.connection.recv(timeout=PATIENCE)
        frame = closed.value.rcvd
        assert frame is not None
        assert (error["type"], error["fatal"]) == ("error", True)
        return error, frame.code, frame.reason


@contextmanager
def demo(*arguments: str, **environment: str | None) -> Iterator[Demo]:
    """A demo on a free port; None takes a variable out of its environment."""
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=changed(environment),
        )
        assert process.stdout is not None
        try:
            yield Demo(json.loads(process.stdout.readline()), process, Path(log.name))
        finally:
            process.kill()
            process.communicate()


def refused_start(command: list[str], **environment: str | None) -> str:
    """What a program says that refuses to start: one line, and no traceback."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=changed(environment),
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode not in (0, 1), done.stdout
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]  # its log
    assert len(lines) == 1, done.stderr
    return lines[0]


def changed(environment: dict[str, str | None]) -> dict[str, str]:
    """This process's environment with some variables changed or taken out."""
    merged = {**os.environ, **environment}
    return {name: value for name, value in merged.items() if value is not None}
