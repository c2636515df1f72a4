"""`trioserver check`: the project's own server passes, and one that is wrong does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from tests.cli.conftest import Invoke
from tests.client.playground import HELLO, READY, scripted
from tests.support.app import serving
from trioserver import Application, AuthConfig, Config, JWTAuth, User, serve
from trioserver.auth import inspect_token, make_secret, make_token
from trioserver.cli.conformance.plan import plan
from trioserver.cli.conformance.scenarios import Result, run_all
from trioserver.cli.parameters.keys import KeyMaterial
from trioserver.client import WebSocketURL

ALICE = WebSocketURL.parse("ws://server/ws/1")
BOB = WebSocketURL.parse("ws://server/ws/2")


async def check(*, address: WebSocketURL = ALICE, **given: Any) -> dict[str, Result]:
    """Check the test application."""
    options: dict[str, Any] = {"token": None, "expired": None, "key": None, "other": None} | given
    async with serving() as harness:

        async def open_stream(address: WebSocketURL) -> trio.abc.Stream:
            return harness.connect_raw().stream

        results = await run_all(plan(address, **options), timeout=1, open_stream=open_stream)
        await harness.assert_nothing_left()
    return {result.scenario.name: result for result in results}


async def test_the_projects_own_server_passes(autojump_clock: MockClock) -> None:
    results = await check(token="alice", expired="expired", other=BOB)
    assert {name: result.passed for name, result in results.items()} == dict.fromkeys(
        ("valid", "expired", "invalid", "missing", "silent", "not auth", "not authorized"), True
    )
    assert results["silent"].seconds == pytest.approx(10.0)
    assert trio.current_time() < 12  # at the same time


async def test_what_was_not_given_is_skipped_with_what_to_pass(autojump_clock: MockClock) -> None:
    results = await check()
    skipped = {name: result.note for name, result in results.items() if result.passed is None}
    assert skipped == {
        "valid": "give --token",
        "expired": "give --expired, or the secret",
        "not authorized": "give --token with --other-url, or the secret",
    }


async def test_what_a_server_refuses_wrongly_fails(autojump_clock: MockClock) -> None:
    results = await check(token="expired", expired="forged", other=ALICE)
    failed = {name: result.seen for name, result in results.items() if result.passed is False}
    assert failed == {
        "valid": "token_expired",
        "expired": "token_invalid",
        "not authorized": "token_expired",
    }


ANSWERS = {
    "takes everybody": READY,
    "advises wrongly": '{"type":"error","code":"token_missing","retry":"backoff","fatal":true}',
    "does not close": '{"type":"error","code":"token_missing","retry":"never","fatal":true}',
    "says nothing": None,
    "says nonsense": "x",
}


@pytest.mark.parametrize(
    ("answer", "seen", "note"),
    [
        ("takes everybody", "ready", ""),
        (
            "advises wrongly",
            "token_missing",
            'retry is "backoff", not "never"; the connection is not closed',
        ),
        ("does not close", "token_missing", "the connection is not closed"),
        ("says nothing", "nothing", ""),
        ("says nonsense", "not a JSON object", ""),
    ],
)
async def test_a_server_that_is_wrong_is_told_how(
    autojump_clock: MockClock, answer: str, seen: str, note: str
) -> None:
    async def script(websocket: WebSocketConnection) -> None:
        await websocket.send_message(HELLO)
        await websocket.get_message()
        if (text := ANSWERS[answer]) is not None:
            await websocket.send_message(text)
        await trio.sleep_forever()

    result = await _missing(script)
    assert (result.passed, result.seen, result.note) == (False, seen, note)


async def test_a_close_with_another_code_fails(autojump_clock: MockClock) -> None:
    async def script(websocket: WebSocketConnection) -> None:
        await websocket.send_message(HELLO)
        await websocket.get_message()
        await websocket.send_message(ANSWERS["does not close"] or "")
        await websocket.aclose(4000, "token_missing")

    result = await _missing(script)
    assert (result.passed, result.note) == (False, "closed with 4000 token_missing")


async def test_a_server_that_does_not_begin_with_hello_fails(autojump_clock: MockClock) -> None:
    async def script(websocket: WebSocketConnection) -> None:
        await websocket.send_message(READY)

    result = await _missing(script)
    assert (result.passed, result.note) == (False, "the first message must be hello")


async def _missing(script: Any) -> Result:
    scenarios = plan(ALICE, token=None, expired=None, key=None, other=None)
    async with trio.open_nursery() as nursery:
        results = await run_all(
            [it for it in scenarios if it.name == "missing"],
            timeout=1,
            open_stream=scripted(nursery, script),
        )
        nursery.cancel_scope.cancel()
    return results[0]


async def test_a_silent_connection_that_ends_too_early_fails(autojump_clock: MockClock) -> None:
    async def script(websocket: WebSocketConnection) -> None:
        await websocket.send_message(HELLO)
        await trio.sleep(1)
        await websocket.aclose(1008, "auth_timeout")

    scenarios = plan(ALICE, token=None, expired=None, key=None, other=None)
    async with trio.open_nursery() as nursery:
        results = await run_all(
            [it for it in scenarios if it.name == "silent"],
            timeout=1,
            open_stream=scripted(nursery, script),
        )
    assert (results[0].passed, results[0].note) == (
        False,
        "7.0 s before the deadline that hello announced",
    )


async def test_with_the_secret_the_tokens_are_made_here() -> None:
    secret = make_secret()
    key = KeyMaterial(text=secret, pem=False, origin="test")
    token = make_token(secret, subject="alice")
    scenarios = {it.name: it for it in plan(ALICE, token=token, expired=None, key=key, other=None)}
    assert not any(it.skipped for it in scenarios.values())
    verify = JWTAuth(secret=secret)
    first = scenarios["not authorized"].first
    assert first is not None
    assert verify.check(first["token"]).id == "trioserver-check"
    assert token not in repr(scenarios)


async def test_made_tokens_have_the_user_where_the_server_looks_for_it() -> None:
    secret = make_secret()
    key = KeyMaterial(text=secret, pem=False, origin="test")
    token = make_token(secret, subject="pairwise", claims={"oid": "alice"})
    options: dict[str, Any] = {"token": token, "expired": None, "key": key, "other": None}
    scenarios = {it.name: it for it in plan(ALICE, user_id_claim="oid", **options)}
    verify = JWTAuth(secret=secret, user_id_claim="oid")
    stranger = scenarios["not authorized"].first
    assert stranger is not None
    assert verify.check(stranger["token"]).id == "trioserver-check"
    expired = scenarios["expired"].first
    assert expired is not None
    assert (inspect_token(expired["token"]).claims or {})["oid"] == "alice"


# ------------------------------------------------------------------------------ the program


def test_a_server_that_is_not_there_is_5(invoke: Invoke) -> None:
    result = invoke("check", "ws://127.0.0.1:1/?token=secret")
    assert result.exit_code == 5
    assert "cannot connect to ws://127.0.0.1:1/: connection_lost: Cannot connect" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["http://x"], ["ws://x", "--other-url", "x"], ["ws://x", "--timeout", "0"], []]
)
def test_a_wrong_command_line_is_2(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("check", *arguments).exit_code == 2


async def test_it_checks_a_server_with_its_secret(tmp_path: Path) -> None:
    secret, file = make_secret(), tmp_path / "secret"
    file.write_text(secret)
    app = Application(auth=JWTAuth(secret=secret))

    async def owns(user: User, resource: Mapping[str, str]) -> bool:
        return user.id == "alice"

    app.route("/ws/{id}", authorize=owns)
    app.route("/open")
    config = Config(port=0, auth=AuthConfig(timeout=0.3))
    token = make_token(secret, subject="alice")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config)
        url = server.addresses[0].url
        key = KeyMaterial(text=secret, pem=False, origin="test")
        for path, verdict in (("ws/1", True), ("open", None), ("nowhere", False)):
            address = WebSocketURL.parse(f"{url}/{path}")
            scenarios = plan(address, token=token, expired=None, key=key, other=None)
            results = await run_all(scenarios, timeout=5)
            assert [it.passed for it in results] == [verdict is not False] * 6 + [verdict]
            assert verdict is not False or results[0].seen == "http_404"
        command = [sys.executable, "-c", "from trioserver.cli.main import main; main()", "check"]
        options = [f"{url}/ws/1", "--token", token, "--secret-file", str(file)]
        done = await trio.run_process([*command, *options], capture_stdout=True)
        assert done.stdout.count(b" pass ") == 7
        assert token.encode() not in done.stdout
        await _fails_with_its_own_code(command, f"{url}/ws/1", secret, token)
        nursery.cancel_scope.cancel()


async def _fails_with_its_own_code(command: list[str], url: str, secret: str, token: str) -> None:
    """The exit code says which scenario failed, the first one's of several."""
    expired = make_token(secret, subject="alice", lifetime=-3600)
    for options, code in (
        (["--token", expired, "--only", "valid"], 11),
        (["--token", token, "--expired", token, "--only", "expired"], 12),
        (["--token", expired, "--expired", token, "--only", "expired", "--only", "valid"], 11),
        (["--token", token, "--other-url", url, "--only", "not authorized"], 17),
        (["--only", "invalid", "--only", "missing"], 0),
    ):
        done = await trio.run_process([*command, url, *options], capture_stdout=True, check=False)
        assert done.returncode == code


async def test_tokens_that_are_made_have_the_claims_of_the_valid_one() -> None:
    secret = make_secret()
    key = KeyMaterial(text=secret, pem=False, origin="test")
    token = make_token(secret, subject="alice", claims={"role": "admin", "jti": "mine"})
    scenarios = {it.name: it for it in plan(ALICE, token=token, expired=None, key=key, other=None)}
    for name in ("expired", "not authorized", "invalid"):
        first = scenarios[name].first
        assert first is not None
        claims = inspect_token(first["token"]).claims
        assert claims is not None
        assert claims["role"] == "admin"
        assert claims["jti"] != "mine"


@pytest.mark.parametrize(("code", "passed"), [("session_mismatch", True), ("token_invalid", False)])
async def test_an_application_may_say_in_its_own_word_whose_a_resource_is_not(
    autojump_clock: MockClock, code: str, passed: bool
) -> None:
    async def script(websocket: WebSocketConnection) -> None:
        await websocket.send_message(HELLO)
        await websocket.get_message()
        error = {"type": "error", "code": code, "retry": "never", "fatal": True, "message": ""}
        await websocket.send_message(json.dumps(error))
        await websocket.aclose(1008, code)

    token = make_token(make_secret(), subject="bob")
    scenarios = plan(ALICE, token=token, expired=None, key=None, other=BOB)
    async with trio.open_nursery() as nursery:
        (result,) = await run_all(
            [it for it in scenarios if it.name == "not authorized"],
            timeout=1,
            open_stream=scripted(nursery, script),
        )
        nursery.cancel_scope.cancel()
    assert result.passed is passed
