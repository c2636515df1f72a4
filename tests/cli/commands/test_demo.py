"""The demo in a process of its own, with a client of another library: what a stranger would see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.patience import PATIENCE

COMMAND = [sys.executable, "-m", "trioserver", "demo", "--port", "0", "--json"]
AUTH_TIMEOUT = 1.0


@contextmanager
def demo(*arguments: str, **environment: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """A running demo: the object it printed, and its process."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRIOSERVER_AUTH_TIMEOUT": str(AUTH_TIMEOUT), **environment},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Any]]:
    with demo() as (facts, _):
        yield facts


def test_probes_and_the_protocol_are_on_the_same_port(running: dict[str, Any]) -> None:
    for path in ("/healthz", "/readyz", "/protocol", "/asyncapi.json"):
        with urlopen(running["http"] + path, timeout=PATIENCE) as answer:
            assert answer.status == 200


@contextmanager
def conversation(
    facts: dict[str, Any], user: str = "alice", number: int = 0
) -> Iterator[ClientConnection]:
    """A connection to a user's conversation, after its `hello`."""
    url = f"{facts['ws']}/ws/conversations/{facts['conversations'][user][number]}"
    with connect(url) as connection:
        assert receive(connection)["type"] == "hello"
        yield connection


def receive(connection: ClientConnection) -> dict[str, Any]:
    message = json.loads(connection.recv(timeout=PATIENCE))
    assert isinstance(message, dict)
    return message


def send(connection: ClientConnection, **message: Any) -> None:
    connection.send(json.dumps(message))


def ready(connection: ClientConnection, token: str) -> dict[str, Any]:
    send(connection, type="auth", token=token)
    message = receive(connection)
    assert message["type"] == "ready", message
    return message


def refused(connection: ClientConnection) -> tuple[dict[str, Any], int, str]:
    """The error, and the close that follows."""
    error = receive(connection)
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=PATIENCE)
    frame = closed.value.rcvd
    assert frame is not None
    return error, frame.code, frame.reason


def test_the_first_line_says_all_that_a_client_needs(running: dict[str, Any]) -> None:
    assert running["ws"].startswith("ws://127.0.0.1:")
    assert running["http"] == "http" + running["ws"].removeprefix("ws")
    assert set(running["tokens"]) >= {"alice", "bob", "alice_expired"}
    assert all(running["conversations"][user] for user in ("alice", "bob"))


def test_whoever_has_the_first_line_can_open_each_page_and_log_in(running: dict[str, Any]) -> None:
    for name, page in running["pages"].items():
        with urlopen(page, timeout=PATIENCE) as answer:
            assert answer.status == 200, name
            assert b"<h1>" in answer.read()
    assert set(running["pages"]) >= {"login", "dashboard", "tester", "conversation", "coach"}
    for user in ("alice", "bob", "admin"):
        body = json.dumps({"username": user, "password": running["passwords"][user]}).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(running["http"] + "/api/v1/login", data=body, headers=headers)
        with urlopen(request, timeout=PATIENCE) as answer:
            token = json.loads(answer.read())["token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        assert (claims["sub"], claims.get("role")) == (user, "admin" if user == "admin" else None)


def test_alice_talks_and_asks_in_her_conversation(running: dict[str, Any]) -> None:
    with conversation(running) as connection:
        told = ready(connection, running["tokens"]["alice"])
        assert told["user"]["id"] == "alice"
        assert told["resource"] == {"conversation_id": running["conversations"]["alice"][0]}
        send(connection, type="message", id=1, data={"text": "I like trees"})
        ack = receive(connection)
        assert (ack["type"], ack["id"]) == ("ack", 1)
        assert isinstance(ack["data"]["message_id"], int)
        send(connection, type="ask", id=2, data={"text": "What about trees?"})
        chunks: list[dict[str, Any]] = []
        while (message := receive(connection))["type"] == "chunk":
            assert message["seq"] == len(chunks)
            chunks.append(message["data"])
        assert message == {"type": "end", "id": 2}
        assert [chunk["kind"] for chunk in chunks[:2]] == ["tool_call", "tool_result"]
        assert {chunk["kind"] for chunk in chunks[2:]} == {"text"}
        answer = "".join(chunk["text"] for chunk in chunks[2:])
        assert "I like trees" in answer
        send(connection, type="history", id=3)
        said = receive(connection)["data"]["messages"]
        assert [entry["role"] for entry in said[-3:]] == ["user", "user", "assistant"]
        assert said[-1]["text"] == answer.strip()


def test_an_answer_is_cancelled_halfway_and_what_was_said_is_kept(running: dict[str, Any]) -> None:
    with conversation(running, number=1) as connection:
        ready(connection, running["tokens"]["alice"])
        send(connection, type="ask", id=1, data={"text": "a very long question " * 20})
        for _ in range(4):
            assert receive(connection)["type"] == "chunk"
        send(connection, type="cancel", id=1)
        while (message := receive(connection))["type"] == "chunk":
            pass
        assert message == {"type": "end", "id": 1, "cancelled": True}
        send(connection, type="history", id=2, data={"limit": 1})
        (last,) = receive(connection)["data"]["messages"]
        assert last["role"] == "assistant"
        assert 0 < len(last["text"]) < 200


def test_history_is_read_page_by_page(running: dict[str, Any]) -> None:
    with conversation(running, "bob") as connection:
        ready(connection, running["tokens"]["bob"])
        for n in range(5):
            send(connection, type="message", id=n, data={"text": f"message {n}"})
            receive(connection)
        send(connection, type="history", id="h", data={"limit": 2})
        newest = receive(connection)["data"]["messages"]
        assert [entry["text"] for entry in newest] == ["message 3", "message 4"]
        send(
            connection,
            type="history",
            id="h",
            data={"limit": 2, "before": newest[0]["message_id"]},
        )
        older = receive(connection)["data"]["messages"]
        assert [entry["text"] for entry in older] == ["message 1", "message 2"]
        for bad in ({"limit": 0}, {"limit": 1000}, {"before": "x"}):
            send(connection, type="history", id="b", data=bad)
            assert receive(connection)["code"] == "invalid_payload"
        send(connection, type="message", id="m", data={"text": ""})
        assert receive(connection)["code"] == "invalid_payload"


@pytest.mark.parametrize(
    ("token", "code", "retry"),
    [
        ("alice_expired", "token_expired", "refresh_token"),
        ("forged", "token_invalid", "never"),
        (None, "token_missing", "never"),
    ],
)
def test_a_bad_token_is_refused_with_advice(
    running: dict[str, Any], token: str | None, code: str, retry: str
) -> None:
    with conversation(running) as connection:
        fields = {} if token is None else {"token": running["tokens"].get(token, token)}
        send(connection, type="auth", **fields)
        error, close_code, reason = refused(connection)
        assert (error["code"], error["retry"], error["fatal"]) == (code, retry, True)
        assert (close_code, reason) == (1008, code)


def test_a_token_whose_signature_was_changed_is_forged(running: dict[str, Any]) -> None:
    with conversation(running) as connection:
        head, body, signature = running["tokens"]["alice"].split(".")
        send(connection, type="auth", token=f"{head}.{body}.{signature[::-1]}")
        assert refused(connection)[1:] == (1008, "token_invalid")


def test_bobs_conversation_and_one_that_is_not_there_are_the_same_to_alice(
    running: dict[str, Any],
) -> None:
    answers = []
    for path in (running["conversations"]["bob"][0], "no-such-conversation"):
        with connect(f"{running['ws']}/ws/conversations/{path}") as connection:
            receive(connection)
            send(connection, type="auth", token=running["tokens"]["alice"])
            answers.append(refused(connection))
    assert answers[0] == answers[1]
    error, code, reason = answers[0]
    assert error["message"] == "Conversation not found or access denied"
    assert (error["code"], code, reason) == ("access_denied", 1008, "access_denied")


def test_silence_is_ended_with_auth_timeout(running: dict[str, Any]) -> None:
    with conversation(running) as connection:
        error, code, reason = refused(connection)
        assert (error["code"], code, reason) == ("auth_timeout", 1008, "auth_timeout")


def test_initial_counts_as_auth_and_needs_a_token(running: dict[str, Any]) -> None:
    conversation_id = running["conversations"]["alice"][0]
    first = {"type": "initial", "user_id": "alice", "username": "Alice"}
    first |= {"conversation_id": conversation_id}
    with conversation(running) as connection:
        send(connection, **first, token=running["tokens"]["alice"])
        assert receive(connection)["type"] == "ready"
    with conversation(running) as connection:
        send(connection, **first)
        assert refused(connection)[1:] == (1008, "token_missing")


def test_agents_take_the_token_in_the_message_or_in_the_query(running: dict[str, Any]) -> None:
    token = running["tokens"]["alice"]
    for query in ("", f"?token={token}"):
        with connect(f"{running['ws']}/ws{query}") as connection:
            receive(connection)
            if not query:
                send(connection, type="auth", token=token)
            assert receive(connection)["type"] == "ready"
            send(connection, type="list_agents", id=1)
            assert "reverse" in receive(connection)["data"]["agents"]
            send(connection, type="run", id=2, data={"agent": "reverse", "input": "abc"})
            messages = [receive(connection) for _ in range(3)]
            assert messages[1]["data"] == {"kind": "result", "value": "cba"}
            assert messages[2]["type"] == "end"
            send(connection, type="run", id=3, data={"agent": "nobody"})
            assert receive(connection)["code"] == "not_found"
    with connect(f"{running['ws']}/ws?token={running['tokens']['alice_expired']}") as connection:
        receive(connection)
        assert refused(connection)[1:] == (1008, "token_expired")


def test_a_path_that_is_none_is_refused_before_the_upgrade(running: dict[str, Any]) -> None:
    with pytest.raises(InvalidStatus) as raised, connect(running["ws"] + "/nothing"):
        pass
    assert raised.value.response.status_code == 404


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    secret = {"TRIOSERVER_SECRET": "s3cret-of-this-test-" + "0123456789abcdef" * 2}
    with demo(*data, **secret) as (facts, process), conversation(facts) as connection:
        ready(connection, facts["tokens"]["alice"])
        for n in range(20):
            send(connection, type="message", id=n, data={"text": f"message {n}"})
        acks = [receive(connection)["data"]["message_id"] for _ in range(20)]
        process.kill()
        process.wait()
    with demo(*data, **secret) as (again, _), conversation(again) as connection:
        ready(connection, facts["tokens"]["alice"])  # the secret was kept, so the token is good
        send(connection, type="history", id=1)
        said = receive(connection)["data"]["messages"]
        assert [entry["message_id"] for entry in said] == acks


def test_a_bare_user_id_is_trusted_only_where_the_demo_says_so() -> None:
    with demo("--trust-user-id") as (facts, _):
        with conversation(facts) as connection:
            send(connection, type="initial", user_id="alice", username="Alice")
            assert receive(connection)["type"] == "ready"
        with conversation(facts) as connection:
            send(connection, type="initial", username="Alice")
            error, code, reason = refused(connection)
            assert (error["message"], code) == ("user_id required", 1008)
            assert reason == "token_missing"
        with conversation(facts, "bob") as connection:
            send(connection, type="initial", user_id="alice")
            assert refused(connection)[1:] == (1008, "access_denied")


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--trust-user-id", "--host", "0.0.0.0"], {}, "127.0.0.1"),
        ([], {"TRIOSERVER_SECRET": "tiny-one"}, "trioserver secret"),
        ([], {"TRIOSERVER_SECRET": "changeme" * 5}, "trioserver secret"),
        ([], {"TRIOSERVER_TOKEN_LIFETIME": "soon"}, "TRIOSERVER_TOKEN_LIFETIME"),
        (["--host", "no-such-host.invalid"], {}, "no-such-host.invalid"),
        (["--data", "/dev/null/x"], {}, "/dev/null/x"),
        (["--data", "/proc/sys"], {}, "/proc/sys"),
    ],
)
def test_what_is_configured_wrongly_stops_the_start_with_a_sentence(
    arguments: list[str], environment: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode not in (0, 1)
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    for value in environment.values():
        assert value == "soon" or value not in done.stderr


def test_ctrl_c_drains_and_a_second_one_ends_at_once() -> None:
    with demo() as (facts, process), conversation(facts) as connection:
        ready(connection, facts["tokens"]["alice"])
        process.send_signal(signal.SIGINT)
        goaway = receive(connection)
        assert goaway["type"] == "goaway"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=PATIENCE)


def test_no_token_and_no_secret_is_in_the_log() -> None:
    secret = "the-secret-of-this-test-" + "0123456789abcdef" * 2
    with demo("--log-level", "debug", TRIOSERVER_SECRET=secret) as (facts, process):
        token = facts["tokens"]["alice"]
        with connect(f"{facts['ws']}/ws?token={token}") as connection:
            receive(connection)
            receive(connection)
        with conversation(facts) as connection:
            ready(connection, token)
            send(connection, type="message", id=1, data={"text": "a private matter"})
            receive(connection)
            send(connection, type="message", id=1, data={"text": ["a private matter"]})
            receive(connection)
        with conversation(facts) as connection:
            send(connection, type="auth", token=facts["tokens"]["alice_expired"])
            refused(connection)
        process.send_signal(signal.SIGTERM)
        timer = threading.Timer(10, process.kill)
        timer.start()
        log = process.stderr.read()
        timer.cancel()
        assert log.count("connection_closed") == 3
        for known in (secret, token, facts["tokens"]["alice_expired"], "private matter"):
            assert known not in log
            assert known.rpartition(".")[2] not in log
