"""System 4, secure configuration: no start without a secret, and tokens as configured."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing
from websockets.exceptions import InvalidStatus

from tests.support.client import Client
from tests.support.patience import PATIENCE
from tests.support.systems import COMMAND, Demo, demo, refused_start
from trioserver import Config, serve
from trioserver.auth import make_secret, make_token
from trioserver.examples import agents

SERVE = [sys.executable, "-m", "trioserver", "serve", "trioserver.examples.agents:make"]
SERVE += ["--port", "0"]

BAD_SECRETS: dict[str, str | None] = {
    "missing": None,
    "empty": "",
    "short": "kX9#vT2qLm",
    "31 bytes": "kX9vT2qLmPzRw8YbNcJdHfGsAeUiOk7",
    "placeholder": "change-this-secret-key-in-production",
    "repeated": "abc" * 20,
}


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo(TRIOSERVER_SECRET=None) as running:
        yield running


# ------------------------------------------------------------------------- the secret


@pytest.mark.parametrize("kind", BAD_SECRETS)
def test_a_bad_secret_is_refused_with_one_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = BAD_SECRETS[kind]
    monkeypatch.delenv("TRIOSERVER_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("TRIOSERVER_SECRET", secret)
    with pytest.raises(ValueError, match=r"TRIOSERVER_SECRET.*32 or more") as raised:
        agents.make()
    sentence = str(raised.value)
    assert "`trioserver secret`" in sentence, "how to make one"
    assert "\n" not in sentence
    assert not secret or secret not in sentence


@pytest.mark.parametrize(
    ("command", "kind"), [(SERVE, "missing"), (SERVE, "short"), (COMMAND, "empty")]
)
def test_it_stops_the_start_and_the_demo_makes_none_in_place_of_a_bad_one(
    command: list[str], kind: str
) -> None:
    line = refused_start(command, TRIOSERVER_SECRET=BAD_SECRETS[kind])
    assert "TRIOSERVER_SECRET" in line
    assert "trioserver secret" in line


def test_a_development_secret_is_made_for_each_run_and_said_so(running: Demo) -> None:
    with demo(TRIOSERVER_SECRET=None) as another:
        for one, other in ((running, another), (another, running)):
            with one.open("/ws") as talk:
                talk.send(type="auth", token=other.token("alice"))
                assert talk.refused()[2] == "token_invalid"
            log = one.log_until("development_secret_created")
            (said,) = [line for line in log.splitlines() if "development_secret_created" in line]
            assert json.loads(said)["level"] == "warning"
            assert "this run only" in said


def test_no_secret_is_shipped() -> None:
    for path in Path("trioserver/examples").rglob("*.py"):
        assert not re.search(r"secret\s*=\s*[\"'][^\"']", path.read_text(), re.IGNORECASE), path


def test_settings_keep_the_secret_out_of_their_repr() -> None:
    secret = make_secret()
    settings = agents.Settings(secret=secret)
    services = agents.make(settings).state["agents"]
    assert secret not in repr(settings) + repr(services)


# ------------------------------------------------------------------------- the lifetime


@pytest.mark.parametrize(("configured", "seconds"), [(None, 1800), ("60", 60), ("86400", 86400)])
def test_a_token_lives_as_long_as_configured(
    configured: str | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOSERVER_SECRET", make_secret())
    monkeypatch.delenv("TRIOSERVER_TOKEN_LIFETIME", raising=False)
    if configured is not None:
        monkeypatch.setenv("TRIOSERVER_TOKEN_LIFETIME", configured)
    token = agents.make().state["agents"].token_for("alice")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == pytest.approx(seconds, abs=1)
    assert claims["iat"] == pytest.approx(time.time(), abs=PATIENCE)


@pytest.mark.parametrize("configured", ["soon", "0", "-5", "nan", "inf", "1e9"])
def test_a_lifetime_that_is_none_is_refused(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIOSERVER_TOKEN_LIFETIME", configured)
    with pytest.raises(ValueError, match=r"TRIOSERVER_TOKEN_LIFETIME.* 1 to 2592000 seconds"):
        agents.Settings.from_environment()


def test_the_connection_ends_with_its_token() -> None:
    with (
        demo(TRIOSERVER_TOKEN_LIFETIME="1") as running,
        running.ready("/ws", "alice") as talk,
    ):
        assert talk.receive()["type"] == "auth_expiring"
        error, code, reason = talk.refused()
        assert (code, reason) == (1008, "token_expired")
        assert error["retry"] == "refresh_token"


# ------------------------------------------------------------------------- who may come in


@pytest.mark.parametrize("where", ["message", "query"])
def test_the_token_comes_in_the_first_message_or_in_the_query(running: Demo, where: str) -> None:
    token = running.token("alice")
    with running.open("/ws" if where == "message" else f"/ws?token={token}") as talk:
        if where == "message":
            talk.send(type="auth", token=token)
        assert talk.receive()["user"] == {"id": "alice"}
        assert "reverse" in talk.request("list_agents")["data"]["agents"]


@pytest.mark.parametrize("where", ["message", "query"])
def test_expired_and_invalid_are_told_apart_with_different_advice(
    running: Demo, where: str
) -> None:
    told = {}
    for name, token in (("expired", running.token("alice_expired")), ("invalid", "a.b.c")):
        with running.open("/ws" if where == "message" else f"/ws?token={token}") as talk:
            if where == "message":
                talk.send(type="auth", token=token)
            told[name] = talk.refused()
    assert [told[name][1:] for name in told] == [(1008, "token_expired"), (1008, "token_invalid")]
    assert told["expired"][0]["retry"] == "refresh_token"
    assert told["invalid"][0]["retry"] == "never"
    assert told["expired"][0]["message"] != told["invalid"][0]["message"]


def test_a_token_in_the_path_is_never_supported(running: Demo) -> None:
    with (
        pytest.raises(InvalidStatus) as raised,
        running.open(f"/ws/{running.token('alice')}"),
    ):
        pass
    assert raised.value.response.status_code == 404


def test_a_good_secret_is_used_and_neither_it_nor_a_token_is_in_any_word() -> None:
    secret = make_secret()
    with demo("--log-level", "debug", TRIOSERVER_SECRET=secret) as running:
        with running.open("/ws") as talk:
            talk.send(type="auth", token=make_token(secret, subject="carol", audience="agents"))
            assert talk.receive()["user"] == {"id": "carol"}
        for name in ("alice", "alice_expired"):
            with running.open(f"/ws?token={running.token(name)}") as talk:
                talk.receive()
        log = running.log_until("token_expired")
    assert "development_secret_created" not in log
    assert secret not in log + json.dumps(running.facts)
    for name in ("alice", "alice_expired"):
        assert running.token(name) not in log
        assert running.token(name).rpartition(".")[2] not in log


# ------------------------------------------------------------------------- agents


def test_an_agent_tells_its_steps_then_its_result(running: Demo) -> None:
    with running.ready("/ws", "alice") as talk:
        *chunks, end = talk.stream("run", agent="count_words", input="a b a")
        assert [chunk["data"]["kind"] for chunk in chunks] == ["step", "step", "result"]
        assert chunks[-1]["data"]["value"] == {"a": 2, "b": 1}
        assert end == {"type": "end", "id": "s"}
        (error,) = talk.stream("run", agent="nobody")
        assert (error["code"], error["fatal"]) == ("not_found", False)


@pytest.mark.parametrize(
    "data", [{}, {"agent": 5}, {"agent": "x" * 65}, {"agent": "reverse", "input": "x" * 10_001}]
)
def test_a_task_that_does_not_fit_is_answered(running: Demo, data: dict[str, Any]) -> None:
    with running.ready("/ws", "alice") as talk:
        (error,) = talk.stream("run", **data)
        assert error["code"] == "invalid_payload"


async def test_handlers_find_services_without_an_http_request() -> None:
    """On a stream in memory, with nothing but the opening handshake."""
    secret = make_secret()
    application = agents.make(agents.Settings(secret=secret))
    application.state["agents"].by_name["shout"] = lambda text: [text.upper()]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, application, Config(port=0))
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(server.serve_stream, theirs)
        client = Client(ours)
        await client.open("/ws")
        await client.authenticate(make_token(secret, subject="alice", audience="agents"))
        await client.send(type="run", id=1, data={"agent": "shout", "input": "hear"})
        assert (await client.receive())["data"] == {"kind": "result", "value": "HEAR"}
        await client.close()
        nursery.cancel_scope.cancel()
