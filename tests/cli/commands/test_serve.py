"""`trioserver serve`: in a process of its own, with a client of another library."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cli.conftest import Invoke
from tests.support.patience import PATIENCE
from trioserver.auth import make_secret, make_token

SECRET = make_secret()

CHAT = f"""
    from trioserver import Application, JWTAuth

    app = Application(auth=JWTAuth(secret={SECRET!r}))
    route = app.route("/ws")

    @route.on("echo")
    def echo(connection, data: str):
        return data

    def make():
        return app

    def make_nothing():
        return None

    def fail():
        raise LookupError("no such thing")

    empty = Application()
    number = 3
"""

Start: TypeAlias = "Callable[..., subprocess.Popen[str]]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with an application in chat.py. Forgets what is imported from it."""
    (tmp_path / "chat.py").write_text(textwrap.dedent(CHAT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in {path.stem for path in tmp_path.glob("*.py")} & set(sys.modules):
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(textwrap.dedent(text))


@pytest.fixture
def start(clean_environment: None, folder: Path) -> Iterator[Start]:
    """`start("chat:app")` serves on a free port; what still runs is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "trioserver", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "TRIOSERVER_PORT": "0", **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("listening on ").strip()


@contextmanager
def open_connection(url: str) -> Iterator[ClientConnection]:
    """An authenticated connection to /ws."""
    with connect(url + "/ws", open_timeout=PATIENCE) as client:
        client.send(json.dumps({"type": "auth", "token": make_token(SECRET, subject="alice")}))
        assert types_of(client, 2) == ["hello", "ready"]
        yield client


def types_of(client: ClientConnection, number: int) -> list[str]:
    return [json.loads(client.recv(PATIENCE))["type"] for _ in range(number)]


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


# ------------------------------------------------------------------------------ running


def test_a_client_is_served_and_sigterm_drains(start: Start) -> None:
    process = start("chat:app", TRIOSERVER_SHUTDOWN_DRAIN_PERIOD="0.2")
    with open_connection(url_of(process)) as client:
        client.send(json.dumps({"type": "echo", "id": 1, "data": "hello"}))
        assert json.loads(client.recv(PATIENCE)) == {"type": "ack", "id": 1, "data": "hello"}
        process.send_signal(signal.SIGTERM)
        assert types_of(client, 2) == ["goaway", "error"]
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "shutdown")
    code, errors = end_of(process)
    assert code == 0
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert events == ["listening", "draining", "connection_closed"]


def test_a_second_sigint_ends_at_once(start: Start) -> None:
    process = start("chat:app", TRIOSERVER_SHUTDOWN_DRAIN_PERIOD="600")
    with open_connection(url_of(process)) as client:
        process.send_signal(signal.SIGINT)
        assert types_of(client, 1) == ["goaway"]
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        code, errors = end_of(process)
    assert code == 0
    assert "forced_shutdown" in errors
    assert "Traceback" not in errors


def test_options_come_from_file_environment_and_command_line(start: Start, folder: Path) -> None:
    path = folder / "server.toml"
    path.write_text(f"[trioserver]\nunix_path = '{folder / 'file.sock'}'\nport = 1\n")
    process = start(
        "chat:make", "--config", "server.toml", TRIOSERVER_UNIX_PATH=str(folder / "env.sock")
    )
    assert url_of(process) == f"ws+unix://{folder / 'env.sock'}"
    assert process.stdout is not None
    assert process.stdout.readline() == "  /ws\n"
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == 0


def test_sighup_keeps_the_options_of_the_command_line(start: Start, folder: Path) -> None:
    (folder / "server.toml").write_text("[trioserver.log]\nlevel = 'error'\n")
    process = start(
        "chat:app", "--config", "server.toml", "--log-format", "json", "--log-level", "info"
    )
    url_of(process)
    (folder / "server.toml").write_text("[trioserver.limits]\nmax_connections = 5\n")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    lines = (json.loads(line) for line in process.stderr)
    reconfigured = next(line for line in lines if line["event"] == "reconfigured")
    assert reconfigured["changed"] == {"limits.max_connections": "10000 -> 5"}


# ------------------------------------------------------------------------------ refusing to start


@pytest.fixture
def serve(invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`serve("chat:app")` in this process, for starts that fail. Leaves logging as it was."""
    monkeypatch.setattr("trioserver.cli.commands.serve.set_up_logging", lambda **_: None)
    return lambda *arguments: invoke("serve", *arguments)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("chat", "MODULE:APP is 'chat'; write the module and the application: chat:app"),
        ("chat:", "MODULE:APP is 'chat:'; write the module and the application: chat:app"),
        ("chat.py:app", "write the module's name in place of its file: chat:app"),
        ("./rooms/chat.py", "write the module's name in place of its file: rooms.chat:app"),
        ("a-b:app", "MODULE:APP is 'a-b:app'; it must consist of Python names"),
    ],
)
def test_a_target_of_another_form_is_a_wrong_command_line(
    serve: Invoke, target: str, said: str
) -> None:
    result = serve(target)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("chats:app", "there is no module 'chats' in {folder}; did you mean chat?"),
        ("zzz:app", "there is no module 'zzz' in {folder}; run the command in its directory"),
        ("zzz.chat:app", "there is no module 'zzz' in {folder}; did you mean chat?"),
        ("chat:ap", "chat has no 'ap'; did you mean app or empty?"),
        ("chat:app.zzz", "chat has no 'app.zzz'; did you mean app or empty?"),
        (
            "chat:number",
            "chat:number is of type int; it must be a trioserver.Application, or a function "
            "without arguments that returns one",
        ),
        ("chat:make_nothing", "chat:make_nothing() is of type NoneType; it must be "),
        ("chat:fail", "calling chat:fail() failed at chat.py, line 18: LookupError: no such thing"),
        ("chat:echo", "calling chat:echo() failed: TypeError: echo() missing 2 required"),
    ],
)
def test_what_is_no_application_is_one_sentence(
    serve: Invoke, folder: Path, target: str, said: str
) -> None:
    result = serve(target)
    assert result.exit_code == 4
    assert result.stderr.startswith("trioserver: " + said.format(folder=folder))
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "importing bad failed at bad.py, line 1: ZeroDivisionError: division by zero"),
        ("import not_installed", "importing bad failed at bad.py, line 1: ModuleNotFoundError: "),
        ("x = (", "importing bad failed at {folder}/bad.py, line 1: '(' was never closed"),
        ("raise SystemExit(0)", "importing bad ended the program; "),
        ("raise ValueError('a\\nb')", "importing bad failed at bad.py, line 1: ValueError: a\n"),
    ],
)
def test_an_import_that_fails_is_one_sentence_with_its_line(
    serve: Invoke, folder: Path, text: str, said: str
) -> None:
    write(folder, "bad.py", text)
    result = serve("bad:app")
    assert result.exit_code == 4
    assert result.stderr.startswith("trioserver: " + said.format(folder=folder))
    assert result.stderr.count("\n") == 1


def test_a_weak_secret_says_how_to_make_one(serve: Invoke, folder: Path) -> None:
    write(folder, "weak.py", "import trioserver\ntrioserver.JWTAuth(secret='your-256-bit-secret')")
    result = serve("weak:app")
    assert result.exit_code == 3
    assert "weak.py, line 2. The secret is a well-known placeholder" in result.stderr
    assert "`trioserver secret`" in result.stderr


def test_an_address_in_use_is_one_sentence(serve: Invoke) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = serve("chat:app", "--port", str(port))
    assert result.exit_code == 5
    assert result.stderr.startswith(f"trioserver: cannot listen on 127.0.0.1, port {port}: ")
    assert result.stderr.count("\n") == 1


def test_a_certificate_that_is_not_there_is_one_sentence(serve: Invoke) -> None:
    result = serve("chat:app", "--certificate", "c.pem", "--key", "k.pem", "--port", "0")
    assert result.exit_code == 5
    assert "cannot use the certificate" in result.stderr


def test_an_option_whose_library_is_missing_says_what_to_install(
    serve: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOSERVER_TRACING_SPANS", "on")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    result = serve("chat:app", "--port", "0")
    assert result.exit_code == 3
    assert result.stderr == (
        "trioserver: tracing needs OpenTelemetry: pip install 'trioserver[otel]'\n"
    )


def test_an_authenticator_that_refuses_the_address_is_one_sentence(
    serve: Invoke, folder: Path
) -> None:
    write(
        folder,
        "trusting.py",
        """
        from trioserver import Application
        from trioserver.auth import TrustedUserId

        app = Application(auth=TrustedUserId(dangerously_trust_every_client=True))
        app.route("/ws")
        """,
    )
    result = serve("trusting:app", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 3
    assert "TrustedUserId lets every client be any user" in result.stderr


def test_a_wrong_option_is_told_before_the_application_is_imported(serve: Invoke) -> None:
    result = serve("zzz:app", "--port", "70000")
    assert result.exit_code == 3
    assert "--port is 70000; it must be a whole number from 0 to 65535" in result.stderr


def test_misspelt_variables_and_missing_routes_are_pointed_out(
    serve: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioserver.cli.commands.serve.run_server", lambda *_, **__: None)
    monkeypatch.setenv("TRIOSERVER_HOTS", "::1")
    result = serve("chat:empty")
    assert result.exit_code == 0
    assert "TRIOSERVER_HOTS is not an option and has no effect; did you mean" in result.stderr
    assert (
        "chat:empty has no routes: every request except the built-in ones gets HTTP 404"
        in result.stderr
    )


# ------------------------------------------------------------------------------ public addresses


def lines_until_ready(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_all_addresses_are_told_with_one_for_this_machine_and_without_tls_it_is_said(
    start: Start,
) -> None:
    process = start("chat:app", "--host", "0.0.0.0")
    first = lines_until_ready(process, 1)[0]
    assert first.startswith("listening on ws://127.0.0.1:")
    assert "0.0.0.0" in first
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stderr is not None
    out, log = process.stdout.read(), process.stderr.read()  # what readline has buffered too
    assert "/metrics and /api/v1/admin: for this machine only" in out
    assert "public_without_tls" in log
    for line in out.splitlines():
        if line.endswith("for others"):
            assert "127.0.0.1" not in line
            assert "0.0.0.0" not in line


def test_on_loopback_nothing_is_said_of_tls(start: Start) -> None:
    process = start("chat:app")
    lines_until_ready(process, 1)
    process.send_signal(signal.SIGTERM)
    out, log = process.communicate(timeout=PATIENCE)
    assert "public_without_tls" not in log
    assert "this machine" not in out
