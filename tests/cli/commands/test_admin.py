"""`trioserver admin`, against a real server over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from click.testing import Result
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.cli.conftest import Invoke
from tests.support.patience import PATIENCE
from tests.support.ports import free_port
from trioserver.auth import make_secret, make_token

SECRET = make_secret()
TOKEN = make_token(SECRET, subject="root", claims={"role": "admin"})


SERVER = f"""
import json, sys, trio
from functools import partial
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as serve_http
from trioserver import Application, AuditConfig, Config, JWTAuth, serve
from trioserver.http.admin import admin_app

async def main():
    application = Application(auth=JWTAuth(secret={SECRET!r}))
    application.route("/ws").on("echo")(lambda connection: None)
    audit = AuditConfig(database=sys.argv[1], flush_interval=0.01)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, application, Config(port=0, audit=audit))
        http = HypercornConfig()
        http.bind = ["127.0.0.1:0"]
        start = partial(serve_http, admin_app(server), http, mode="asgi",
                        shutdown_trigger=trio.sleep_forever)
        (url,) = await nursery.start(start)
        print(json.dumps([server.addresses[0].url, url]), flush=True)

trio.run(main)
"""


@attrs.frozen
class Running:
    """A server in a process of its own: its WebSockets' URL, and its administration's."""

    websocket_url: str
    url: str

    @contextmanager
    def connect(self, user: str = "alice") -> Iterator[ClientConnection]:
        """A client that has sent its token."""
        with connect(f"{self.websocket_url}/ws") as client:
            client.recv(timeout=PATIENCE)
            client.send(json.dumps({"type": "auth", "token": make_token(SECRET, subject=user)}))
            yield client

    @contextmanager
    def connect_ready(self, user: str = "alice") -> Iterator[ClientConnection]:
        """A client that is let in."""
        with self.connect(user) as client:
            assert json.loads(client.recv(timeout=PATIENCE))["type"] == "ready"
            yield client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    database = tmp_path_factory.mktemp("audit") / "audit.db"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, database], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:  # its log comes first
            if line.startswith("["):
                yield Running(*json.loads(line))
                break
        else:
            raise AssertionError("the server has ended")
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def admin(invoke: Invoke, running: Running, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with the server's URL and an administrator's token."""
    # The application under test has no prefix of its own.
    monkeypatch.setattr("trioserver.cli.administration.client.PREFIX", "")

    def run(*arguments: str, token: str | None = TOKEN, url: str | None = None) -> Result:
        env = {"COLUMNS": "250"} | ({} if token is None else {"TRIOSERVER_ADMIN_TOKEN": token})
        return invoke("admin", "--url", url or running.url, *arguments, env=env)

    return run


def test_connections_are_listed_and_one_is_shown(running: Running, admin: Any) -> None:
    with running.connect_ready():
        listed = admin("connections", "--user", "alice")
        assert listed.exit_code == 0
        assert "ready" in listed.stdout
        answer = json.loads(admin("connections", "--user", "alice", "--json").stdout)
        (connection,) = answer["connections"]
        shown = admin("show", connection["id"])
        assert "alice" in shown.stdout
        assert "tasks" in shown.stdout
        assert json.loads(admin("show", connection["id"], "--json").stdout)["phase"] == "ready"
    gone = admin("show", "no/such?id")
    assert (gone.exit_code, "not_found" in gone.stderr) == (1, True)


def test_disconnecting_tells_how_many_were_met(running: Running, admin: Any) -> None:
    with running.connect_ready("bob") as client:
        done = admin("disconnect", "--user", "bob", "--message", "Maintenance.")
        assert (done.exit_code, done.stdout) == (0, "disconnected 1 connection\n")
        error = json.loads(client.recv(timeout=PATIENCE))
        assert (error["code"], error["message"]) == ("disconnected", "Maintenance.")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001
    nobody = admin("disconnect", "--user", "bob", "--json")
    assert (nobody.exit_code, json.loads(nobody.stdout)) == (1, {"disconnected": 0})


def test_blocking_listing_and_lifting(running: Running, admin: Any) -> None:
    done = admin("block", "--user", "eve", "--for", "1h", "--reason", "spam")
    assert (done.exit_code, done.stdout.partition(": ")[2]) == (0, "disconnected 0 connections\n")
    with running.connect("eve") as client:
        assert json.loads(client.recv(timeout=PATIENCE))["code"] == "session_blocked"
    assert "spam" in admin("blocks").stdout
    (block,) = json.loads(admin("blocks", "--user", "eve", "--json").stdout)["blocks"]
    assert (block["stored"], block["actor"]) == (True, "root")
    lifted = admin("unblock", block["id"])
    assert (lifted.exit_code, lifted.stdout) == (0, "lifted 1\n")
    assert admin("unblock", "--user", "eve").exit_code == 1
    admin("block", "--resource", "id:1", "--resource", "part:2")
    assert admin("unblock", "--resource", "part:2", "--resource", "id:1").exit_code == 0


def test_figures_and_the_audit(running: Running, admin: Any) -> None:
    admin("unblock", "--user", "nobody")
    assert "audit.queued" in admin("stats").stdout
    assert json.loads(admin("stats", "--json").stdout)["draining"] is False
    deadline = time.monotonic() + PATIENCE
    while (
        "unblock user=nobody"
        not in admin("audit", "--since", "1h", "--kind", "admin_action").stdout
    ):
        assert time.monotonic() < deadline
    entries = json.loads(admin("audit", "--user", "root", "--limit", "1", "--json").stdout)
    assert entries["entries"][0]["user"] == "root"


@pytest.mark.parametrize(
    ("token", "code", "text"),
    [
        (None, 7, "token_missing"),
        ("nonsense", 7, "token_invalid"),
        (make_token(SECRET, subject="root", lifetime=-100), 7, "token_expired"),
        (make_token(SECRET, subject="alice"), 7, "admin.role_claim"),
        ("line\nbreak-in-a-secret", 3, "an HTTP header cannot have"),
    ],
)
def test_a_token_that_is_refused_is_told_and_not_printed(
    admin: Any, token: str | None, code: int, text: str
) -> None:
    result = admin("stats", token=token)
    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr
    assert token is None or token not in result.output
    assert "break-in-a-secret" not in result.output


def test_the_token_may_be_in_a_file(admin: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert admin("--token-file", str(file), "stats", token=None).exit_code == 0
    assert admin("--token-file", str(tmp_path / "none"), "stats").exit_code == 3
    assert admin("--token-file", str(file), "--token", "x", "stats").exit_code == 2


def test_a_server_that_is_not_there_is_exit_code_6(admin: Any) -> None:
    port = free_port()
    result = admin("stats", url=f"http://127.0.0.1:{port}")
    assert result.exit_code == 6
    assert result.stderr == (
        f"trioserver: cannot reach the server at http://127.0.0.1:{port}: Connection refused; "
        "check --url, and that it runs\n"
    )


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1", "http://", "http://x:y", "http://root:x@localhost", "http://h/?t=1"]
)
def test_a_url_that_is_none_is_exit_code_2(admin: Any, url: str) -> None:
    assert admin("stats", url=url).exit_code == 2


def test_a_token_is_not_sent_unencrypted_to_another_machine(admin: Any) -> None:
    result = admin("stats", url="http://203.0.113.7")
    assert result.exit_code == 2
    assert "--allow-http" in result.stderr


def answer_once(answer: bytes, context: Any = None) -> tuple[int, threading.Thread]:
    """A server for one request, on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        with listener:
            stream, _ = listener.accept()
            with stream:
                try:
                    if context is not None:
                        stream = context.wrap_socket(stream, server_side=True)
                    stream.recv(65536)
                    stream.sendall(answer)
                except OSError:
                    pass
                finally:
                    stream.close()

    thread = threading.Thread(target=serve_one)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html", 1),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]", 1),
        (b"garbage\r\n\r\n", 6),
        (b"", 6),
    ],
)
def test_an_answer_of_something_else_is_no_traceback(admin: Any, answer: bytes, code: int) -> None:
    port, thread = answer_once(answer)
    result = admin("stats", url=f"http://127.0.0.1:{port}")
    thread.join(10)
    assert result.exit_code == code
    assert result.stderr.startswith("trioserver: ")
    assert TOKEN not in result.output


def test_over_tls_the_certificate_counts(admin: Any, tmp_path: Path) -> None:
    import ssl

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"open":1}'
    for options, code in ((["--ca", str(tmp_path / "ca.pem")], 0), ([], 6)):
        port, thread = answer_once(answer, context)
        result = admin(*options, "stats", url=f"https://localhost:{port}")
        thread.join(10)
        assert result.exit_code == code, result.output
    assert "certificate" in result.stderr
    assert admin("--ca", str(tmp_path / "no"), "stats", url="https://localhost:1").exit_code == 3


def test_draining_asks_first_and_ends_the_server(admin: Any) -> None:
    """The last one: it takes the server with it."""
    assert admin("drain").exit_code == 1  # nobody said yes
    assert json.loads(admin("stats", "--json").stdout)["draining"] is False
    done = admin("drain", "--yes", "--reason", "restart")
    assert (done.exit_code, done.stdout) == (0, "draining\n")
    assert json.loads(admin("stats", "--json").stdout)["draining"] is True
