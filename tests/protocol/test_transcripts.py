"""Each transcript, played against both sides of a session."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from protocol import ClientProtocol, ProtocolOptions, transcript
from protocol.errors import ERRORS
from protocol.states import CLIENT_TABLE, ClientState, ClientTrigger
from protocol.transcript import Step, load, mismatch, names, names_for

SCHEMAS = Path(transcript.__file__).parent / "schemas"

every_transcript = pytest.mark.parametrize("name", names())
every_one_for_servers = pytest.mark.parametrize("name", names_for("server"))


def expect(step: Step, said: tuple[float, str, Any]) -> str | None:
    """Where what was said is not what the step expects."""
    at, kind, value = said
    if not step.at_ms <= round(at * 1000) <= step.at_ms + step.within_ms:
        return f"at {at * 1000} ms, not at {step.at_ms} ms: {value}"
    if step.close is not None:
        expected: Any = {"code": step.close.code, "reason": step.close.reason}
    else:
        expected = step.message if step.message is not None else step.frame
    wanted = "close" if step.close else "message" if step.message is not None else "frame"
    return mismatch(expected, value) if wanted == kind else f"{wanted}, not {kind} {value}"


def filled(value: Any) -> Any:
    """A server's message with something in place of each wildcard."""
    if not isinstance(value, dict):
        return value
    if "$any" in value:
        samples = {"string": "text", "integer": 1, "instant": "2030-01-01T00:00:00.000Z"}
        return value.get("at_most", samples.get(value["$any"]))
    return {name: filled(inner) for name, inner in value.items()}


READY = {
    "connection_id": "c1",
    "user": {"id": "alice"},
    "resource": {},
    "expires_at": None,
    "server_time": "2030-01-01T00:00:00.000Z",
}
SAMPLES: dict[str, dict[str, Any]] = {
    "hello": {"protocol": "trioserver.v1", "auth_timeout_ms": 10000},
    "ready": READY,
    "error": {"message": "text"},
    "auth_expiring": {"expires_at": "2030-01-01T00:00:00.000Z", "expires_in_ms": 1},
    "auth_refreshed": {"expires_at": None, "expires_in_ms": None},
}
NESTED = {
    "heartbeat": {"mode": "frame", "interval_ms": 30000, "timeout_ms": 10000},
    "limits": msgspec.to_builtins(ProtocolOptions().limits),
}


def completed(message: dict[str, Any]) -> bytes:
    """The whole message of which a step gives only what it cares about."""
    message = {**SAMPLES.get(message["type"], {}), **filled(message)}
    if message["type"] == "ready":
        for part, sample in NESTED.items():
            message[part] = {**sample, **message.get(part, {})}
    return json.dumps(message).encode()


def tokens_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$token" in value:
            yield value["$token"]
        for inner in value.values():
            yield from tokens_in(inner)


# -------------------------------------------------------------------------------- the data


@pytest.fixture(scope="module")
def schema() -> Any:
    return jsonschema.Draft202012Validator(
        json.loads((SCHEMAS / "transcript.schema.json").read_text())
    )


@every_transcript
def test_each_is_valid_named_after_its_file_and_in_order_of_time(name: str, schema: Any) -> None:
    path = Path(transcript.__file__).parent / "transcripts" / f"{name}.json"
    schema.validate(json.loads(path.read_text(encoding="utf-8")))
    script = load(name)
    assert script.name == name
    times = [step.at_ms for step in script.steps]
    assert times == sorted(times)
    assert {token for step in script.steps for token in tokens_in(step.message)} <= set(
        transcript.TOKENS
    )


@every_transcript
def test_one_for_clients_has_no_step_that_no_library_takes(name: str) -> None:
    script = load(name)
    garbage = ("text", "text_bytes", "binary", "repeat")
    steps = [step for step in script.steps if step.sender == "client"]
    newer = name.startswith("unknown_")  # than any server that could be tested with it
    assert "server" in script.audience or newer or not any(step.message for step in steps[1:])
    if "client" in script.audience:
        assert not any(getattr(step, field) is not None for step in steps for field in garbage)


def test_most_are_for_both_sides() -> None:
    audiences = [load(name).audience for name in names()]
    assert audiences.count(("server", "client")) > len(audiences) // 2
    assert ("server",) in audiences


@every_one_for_servers
def test_each_error_says_what_the_table_says(name: str) -> None:
    last: dict[str, Any] = {}
    for step in load(name).steps:
        if step.sender != "server":
            continue
        if step.message is not None and step.message["type"] == "error":
            last = step.message
            assert last["retry"] == ERRORS[last["code"]].retry
        elif step.close is not None and step.close.reason:
            assert last["fatal"]
            assert last["code"] == step.close.reason
            assert step.close.code == ERRORS[step.close.reason].close_code


def test_together_they_show_every_error_that_one_connection_can_meet() -> None:
    needs_more = {"restart", "protocol_error", "session_blocked", "server_busy", "superseded",
                  "slow_consumer", "token_too_big", "too_big_to_send"}  # fmt: skip
    shown = {
        step.message["code"]
        for name in names_for("server")
        for step in load(name).steps
        if step.message is not None and step.message["type"] == "error"
    }
    assert shown == set(ERRORS) - needs_more


def test_a_step_without_an_action_or_with_two_is_refused() -> None:
    for step in ({}, {"text": "a", "binary": "00"}):
        with pytest.raises(msgspec.ValidationError, match="exactly one"):
            msgspec.convert({"at_ms": 0, "from": "client", **step}, Step)


# -------------------------------------------------------------------------------- the replay


@every_one_for_servers
def test_a_server_session_behaves_as_written(name: str, server: Any) -> None:
    script = load(name)
    wire = server(script)
    for step in script.steps:
        wire.advance(step.at_ms / 1000)
        for _ in range(step.times):
            if step.sender == "client":
                wire.hear(step)
            elif step.do is not None:
                wire.operate(step.do)
            else:
                wire.advance(max(wire.now, (step.at_ms + step.within_ms) / 1000))
                assert wire.said, f"nothing was said: {step}"
                assert expect(step, wire.said.pop(0)) is None
    assert not wire.said
    assert wire.gone or not wire.session.close


@every_transcript
def test_a_client_session_understands_every_word(name: str) -> None:
    session = ClientProtocol(0.0)
    script = load(name)
    for step in script.steps:
        message = step.message
        if message is None:
            continue
        if step.sender == "client":
            may = CLIENT_TABLE[session.state, ClientTrigger.AUTHENTICATE]
            if message["type"] in ("auth", "initial") and isinstance(may, ClientState):
                session.authenticate("token")
        else:
            for _ in range(step.times):
                session.receive(completed(message), step.at_ms / 1000)
    last = script.steps[-1]
    if last.sender == "server" and last.close is not None and last.close.reason:
        assert session.state is ClientState.CLOSED
        assert session.failure is not None
        assert session.failure.code == last.close.reason


# -------------------------------------------------------------------------------- the matcher


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "unknown": 2}),
        ({"a": {"$any": "string"}}, {"a": ""}),
        ({"a": {"$any": "integer"}}, {"a": -3}),
        ({"a": {"$any": "integer", "at_least": 1, "at_most": 500}}, {"a": 1}),
        ({"a": {"$any": "integer", "at_least": 1, "at_most": 500}}, {"a": 500}),
        ({"a": {"$any": "instant"}}, {"a": "2030-01-01T00:00:00.000Z"}),
        ({"a": {"$any": "anything"}}, {"a": None}),
        ([{"a": 1}, None], [{"a": 1, "b": 2}, None]),
    ],
)
def test_what_fits_has_no_mismatch(expected: Any, actual: Any) -> None:
    assert mismatch(expected, actual) is None


@pytest.mark.parametrize(
    ("expected", "actual", "where"),
    [
        ({"a": 1}, {}, r"\$\.a is missing"),
        ({"a": 1}, {"a": True}, r"\$\.a: 1, not True"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, r"\$\.a\.b: 1, not 2"),
        ({"a": {}}, {"a": 1}, r"\$\.a: an object, not 1"),
        ({"a": {"$any": "integer"}}, {"a": True}, "any integer, not True"),
        ({"a": {"$any": "integer", "at_least": 1}}, {"a": 0}, "any integer at least 1, not 0"),
        ({"a": {"$any": "integer", "at_most": 5}}, {"a": 6}, "any integer at most 5, not 6"),
        ({"a": {"$any": "integer", "at_most": 5}}, {"a": "1"}, "any integer at most 5, not '1'"),
        ({"a": {"$any": "instant"}}, {"a": "2030-01-01T00:00:00"}, "any instant"),
        ({"a": {"$any": "instant"}}, {"a": 5}, "any instant"),
        ([1, 2], [1], r"\$: \[1, 2\], not \[1\]"),
        ([1, 2], [1, 3], r"\$\[1\]: 2, not 3"),
    ],
)
def test_a_mismatch_says_where(expected: Any, actual: Any, where: str) -> None:
    assert re.search(where, mismatch(expected, actual) or "")
