"""What the transcripts do not show: bounds, secrets, and input that nobody would write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import ERRORS, Close, Fatal, ProtocolOptions, Refusal, ServerProtocol, ServerState
from protocol.messages import Auth, Cancel, Message, Ping
from protocol.rate_limits import ERROR_BURST
from protocol.server import MAX_HELD

AUTH = b'{"type":"auth","token":"secret"}'
WALL = 1_900_000_000.0


def opened(**options: Any) -> ServerProtocol:
    session = ServerProtocol(ProtocolOptions(**options), 0.0)
    session.start()
    session.outgoing.clear()
    return session


def admit(session: ServerProtocol, *, expires_in: float | None = None) -> ServerProtocol:
    session.accept_auth(
        now=0.0,
        wall=WALL,
        connection_id="c1",
        user={"id": "alice"},
        resource={},
        expires_at=None if expires_in is None else WALL + expires_in,
    )
    return session


def ready(*, expires_in: float | None = None, **options: Any) -> ServerProtocol:
    session = opened(**options)
    session.receive(AUTH, 0.0)
    admit(session, expires_in=expires_in).outgoing.clear()
    return session


def said(session: ServerProtocol) -> list[dict[str, Any]]:
    messages = [json.loads(data) for data in session.outgoing]
    session.outgoing.clear()
    return messages


def codes(session: ServerProtocol) -> list[str]:
    return [message["code"] for message in said(session)]


# -------------------------------------------------------------------------------- before READY


def test_a_token_in_the_query_string_takes_the_place_of_the_first_message() -> None:
    session = ServerProtocol(ProtocolOptions(greeting="Welcome."), 0.0)
    session.start(token="t")
    assert said(session)[0]["message"] == "Welcome."
    assert session.state is ServerState.VERIFYING
    assert session.auth == Auth(token="t")
    assert admit(session).is_ready


@pytest.mark.parametrize("mode", ["frame", "message"])
def test_the_query_string_can_choose_the_heartbeat_as_the_first_message_can(mode: str) -> None:
    session = ServerProtocol(ProtocolOptions(heartbeat="frame"), 0.0)
    session.start(token="t", heartbeat=mode)
    assert admit(session).heartbeat == mode


def test_another_heartbeat_in_the_query_string_counts_as_absent() -> None:
    session = ServerProtocol(ProtocolOptions(heartbeat="message"), 0.0)
    session.start(token="t", heartbeat="often")
    admit(session)
    assert said(session)[-1]["heartbeat"]["mode"] == "message"


def test_the_token_is_forgotten_as_soon_as_it_is_verified_or_refused() -> None:
    assert ready().auth is None
    session = opened()
    session.receive(AUTH, 0.0)
    assert session.auth_fields["token"] == "secret"
    session.fail(Refusal("token_invalid"))
    assert session.auth is None
    assert not session.auth_fields


def test_an_authenticator_sees_all_fields_of_the_first_message() -> None:
    session = opened(auth_aliases=frozenset({"initial"}))
    message = session.receive(b'{"type":"initial","token":"t","colour":"blue"}', 0.0)
    assert message == Auth(token="t")
    assert session.auth_fields["colour"] == "blue"


def test_an_alias_counts_only_before_ready() -> None:
    session = ready(auth_aliases=frozenset({"initial"}))
    assert session.receive(b'{"type":"initial","token":"t"}', 0.0) == Message(type="initial")


def test_nothing_reaches_the_application_before_ready() -> None:
    session = opened()
    session.receive(AUTH, 0.0)
    assert session.receive(b'{"type":"x","id":1}', 0.0) is None
    assert not session.outgoing
    admit(session)
    assert session.receive_held(0.0) == [Message(type="x", id=1)]
    assert session.receive_held(0.0) == []


def test_what_is_held_is_bounded_in_number_and_in_bytes() -> None:
    session = opened(max_message_bytes_before_ready=100)
    session.receive(AUTH, 0.0)
    for _ in range(MAX_HELD):
        session.receive(b"x" * 100, 0.0)
    assert session.close is None
    session.receive(b"x", 0.0)
    assert session.close == Close(1008, "auth_required")


def test_before_ready_any_error_ends_the_session_and_keeps_its_advice() -> None:
    session = opened()
    session.refuse(Refusal("unavailable", retry_after=2.5), 0.0)
    assert said(session)[0]["retry_after_ms"] == 2500
    assert session.close == Close(1013, "unavailable")


def test_the_deadline_covers_the_opening_as_well() -> None:
    session = ServerProtocol(ProtocolOptions(auth_timeout=1.0), 0.0)
    session.tick(1.0, WALL)
    assert session.close == Close(1008, "auth_timeout")


# -------------------------------------------------------------------------------- READY


def test_a_stream_can_be_cancelled_by_the_id_that_is_in_flight() -> None:
    session = ready()
    session.begin(1)
    assert session.receive(b'{"type":"cancel","id":1}', 0.0) == Cancel(id=1)


def test_an_id_is_free_again_once_its_request_is_finished() -> None:
    session = ready()
    session.begin("a")
    assert session.receive(b'{"type":"x","id":"a"}', 0.0) is None
    assert codes(session) == ["duplicate_id"]
    session.finish("a")
    assert session.receive(b'{"type":"x","id":"a"}', 0.0) == Message(type="x", id="a")


def test_a_request_without_an_id_is_not_in_flight() -> None:
    session = ready(max_in_flight=1)
    session.begin(None)
    session.begin(1)
    with pytest.raises(Refusal) as caught:
        session.begin(2)
    assert caught.value.code == "too_many_in_flight"
    session.finish(None)


def test_messages_for_clients_are_unknown_types_to_a_server() -> None:
    session = ready()
    assert session.receive(b'{"type":"ack","id":1}', 0.0) is None
    assert codes(session) == ["unknown_type"]


def test_errors_end_the_session_only_when_they_go_on() -> None:
    session = ready()
    for second in range(200):
        session.receive(b"hello", float(second))
    assert session.close is None
    session.outgoing.clear()
    for _ in range(ERROR_BURST + 1):
        session.receive(b"hello", 200.0)
    assert session.close == Close(1008, "too_many_errors")
    assert codes(session)[-1] == "too_many_errors"


def test_an_applications_own_error_is_passed_on_and_not_fatal() -> None:
    session = ready()
    session.refuse(Refusal("no_credit", "Buy some.", retry_after=1.0), 0.0, id=3)
    assert said(session) == [
        {
            "type": "error", "code": "no_credit", "message": "Buy some.", "retry": "never",
            "fatal": False, "id": 3, "retry_after_ms": 1000,
        }
    ]  # fmt: skip


def test_a_ping_is_answered_with_what_it_brought() -> None:
    session = ready()
    ping = session.receive(b'{"type":"ping","id":1,"data":[2]}', 0.0)
    assert isinstance(ping, Ping)
    assert json.loads(session.pong(ping, WALL)) == {
        "type": "pong", "id": 1, "data": [2], "timestamp": "2030-03-17T17:46:40.000Z"
    }  # fmt: skip


def test_nothing_is_said_or_heard_after_the_end() -> None:
    session = ready()
    session.end()
    assert session.close == Close(1000, "")
    assert session.deadline is None
    session.fail(Refusal("internal_error"))
    session.end()
    session.tick(1e9, WALL)
    assert session.receive(AUTH, 0.0) is None
    assert session.close == Close(1000, "")
    assert not session.outgoing


# -------------------------------------------------------------------------------- expiry


def test_a_token_without_an_end_has_no_deadline() -> None:
    assert ready().deadline is None


def test_the_warning_comes_ahead_of_time_and_halfway_for_a_short_token() -> None:
    assert ready(expires_in=600.0, expiry_warning=60.0).deadline == 540.0
    assert ready(expires_in=10.0, expiry_warning=60.0).deadline == 5.0


def test_a_tick_too_early_does_nothing() -> None:
    session = ready(expires_in=600.0)
    session.tick(539.9, WALL + 539.9)
    assert not session.outgoing


def test_a_token_that_ended_meanwhile_ends_the_session_without_a_warning() -> None:
    session = ready(expires_in=-1.0)
    session.tick(0.0, WALL)
    assert codes(session) == ["token_expired"]
    assert session.close == Close(1008, "token_expired")


def test_a_refresh_moves_the_deadline() -> None:
    session = ready(expires_in=100.0, expiry_warning=60.0)
    assert session.receive(b'{"type":"auth","token":"t","id":1}', 10.0) == Auth(token="t", id=1)
    session.accept_refresh(now=10.0, wall=WALL + 10.0, expires_at=WALL + 210.0)
    assert session.deadline == 150.0
    assert said(session)[0]["expires_in_ms"] == 200_000


def test_a_refresh_by_a_token_without_an_end_says_null() -> None:
    session = ready(expires_in=100.0)
    session.receive(AUTH, 0.0)
    session.accept_refresh(now=0.0, wall=WALL, expires_at=None)
    assert session.deadline is None
    assert said(session) == [{"type": "auth_refreshed", "expires_at": None, "expires_in_ms": None}]


# -------------------------------------------------------------------------------- any input

valid = st.sampled_from(
    [AUTH, b'{"type":"ping","id":1}', b'{"type":"x","id":1}', b'{"type":"cancel","id":1}',
     b'{"type":"ready"}', b'{"type":"ping","type":"auth"}', b"[" * 100_000]
)  # fmt: skip
inputs = st.lists(st.binary(max_size=40) | valid, max_size=30)


def check_last_words(session: ServerProtocol) -> None:
    messages = said(session)
    errors = [message for message in messages if message["type"] == "error"]
    assert all(message["code"] in ERRORS for message in errors)
    assert all(
        ERRORS[message["code"]].fatal is not Fatal.NEVER for message in errors if message["fatal"]
    )
    fatal = [message for message in messages if message.get("fatal")]
    if session.close is None:
        assert not fatal
    else:
        assert fatal == messages[-1:]
        assert session.close == Close(ERRORS[fatal[0]["code"]].close_code or 0, fatal[0]["code"])


@given(inputs, st.sampled_from(["waiting", "verifying", "ready"]))
def test_any_input_is_understood_or_answered_with_a_documented_error(
    texts: list[bytes], state: str
) -> None:
    session = {"waiting": opened, "verifying": opened, "ready": ready}[state]()
    if state == "verifying":
        session.receive(AUTH, 0.0)
    for text in texts:
        message = session.receive(text, 0.0)
        if isinstance(message, Message):
            assert session.is_ready
    if session.state is ServerState.VERIFYING:
        admit(session)
        session.receive_held(0.0)
    check_last_words(session)


@given(inputs)
def test_what_is_said_is_bounded_by_what_is_heard(texts: list[bytes]) -> None:
    session = ready()
    for text in texts:
        session.receive(text, 0.0)
    assert sum(map(len, session.outgoing)) <= 600 * (len(texts) + 1)


# -------------------------------------------------------------------------------- what it costs


def test_what_is_no_message_counts_towards_the_rates_before_it_is_looked_at() -> None:
    session = ready(messages_per_second=1, bytes_per_second=1024, max_message_bytes=4096)
    for _ in range(2):
        session.receive(b"x", 0.0)
    assert codes(session) == ["bad_message"] * 2
    session.receive(b"x", 0.0)
    assert codes(session) == ["rate_limited"]
    assert session.receive(b"x" * 4000, 1.0) is None
    assert codes(session) == ["bad_message"]
    session.receive(b"x" * 4000, 2.0)
    assert codes(session) == ["rate_limited"]


def test_arrays_and_objects_count_for_more_than_their_bytes() -> None:
    """A client within the announced limits by its bytes would hold up all others by what they
    cost."""
    session = ready(bytes_per_second=8 * 1024, max_message_bytes=16 * 1024)
    towers = b'{"type":"x","data":[' + b"[]," * 900 + b"1]}"
    assert len(towers) < 4096
    assert session.receive(towers, 0.0) is not None
    assert session.receive(towers, 0.0) is None
    assert codes(session) == ["rate_limited"]
    assert session.receive(b'{"type":"x","data":"' + b"a" * 1500 + b'"}', 0.0) is not None


def test_in_a_batch_they_count_as_well() -> None:
    session = ready(bytes_per_second=16 * 1024, max_message_bytes=32 * 1024)
    towers = b'{"type":"x","data":[' + b"[]," * 900 + b"1]}"
    assert session.charge(3, 3 * len(towers), 0.0)
    assert session.receive(towers, 0.0, charged=True) is not None
    assert session.receive(towers, 0.0, charged=True) is not None
    assert session.receive(towers, 0.0, charged=True) is None
    assert codes(session) == ["rate_limited"]


def test_a_message_that_counts_for_more_than_any_burst_is_taken_when_the_burst_is_whole() -> None:
    session = ready(bytes_per_second=1024, max_message_bytes=16 * 1024)
    towers = b'{"type":"x","data":[' + b"[]," * 4000 + b"1]}"
    assert session.receive(towers, 0.0) is not None


def test_a_refresh_is_no_larger_than_the_first_auth() -> None:
    session = ready(max_message_bytes_before_ready=200)
    session.receive(b'{"type":"auth","token":"' + b"t" * 200 + b'"}', 0.0)
    assert codes(session) == ["invalid_payload"]
    assert session.state is ServerState.READY
