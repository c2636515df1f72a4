"""What the transcripts do not show: ids, chunks out of order, what a caller must not do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import ERRORS, ClientProtocol, ClientState, LocalProtocolError, RemoteProtocolError
from protocol.client import MAX_PENDING
from protocol.generate.descriptions import EXAMPLES
from protocol.messages import Chunk, ClientInfo, End, Error, Ping


def feed(session: ClientProtocol, **message: Any) -> Any:
    return session.receive(json.dumps(message).encode(), 1.0)


def ready() -> ClientProtocol:
    session = ClientProtocol(0.0)
    session.authenticate("t")
    feed(session, **EXAMPLES["Ready"])
    session.outgoing.clear()
    return session


def sent(session: ClientProtocol) -> list[dict[str, Any]]:
    messages = [json.loads(data) for data in session.outgoing]
    session.outgoing.clear()
    return messages


def test_it_authenticates_without_waiting_for_the_hello() -> None:
    session = ClientProtocol(0.0)
    assert session.authenticate("t", heartbeat="message", client=ClientInfo(name="me")) is None
    assert sent(session) == [
        {"type": "auth", "token": "t", "heartbeat": "message", "client": {"name": "me"}}
    ]
    feed(session, **EXAMPLES["Hello"])
    feed(session, **EXAMPLES["Ready"])
    assert session.state is ClientState.READY
    assert session.ready is not None
    assert session.ready.user == {"id": "alice"}
    assert session.last_received == 1.0


def test_with_the_token_in_the_query_string_nothing_is_sent() -> None:
    session = ClientProtocol(0.0)
    session.authenticate("t", in_query=True)
    assert not session.outgoing
    assert session.state is ClientState.AUTHENTICATING


def test_every_request_has_an_id_of_its_own() -> None:
    session = ready()
    ids = [
        session.request("ask", {"text": "?"}),
        session.subscribe("a", "b"),
        session.publish("a", None),
        session.unsubscribe("a"),
        session.ping(),
        session.authenticate("t2"),
    ]
    messages = sent(session)
    assert [message["id"] for message in messages] == ids
    assert len(set(ids)) == len(ids)
    assert messages[0] == {"type": "ask", "id": ids[0], "data": {"text": "?"}}
    assert messages[2]["data"] is None


def test_what_wants_no_answer_has_no_id() -> None:
    session = ready()
    session.send("seen")
    assert sent(session) == [{"type": "seen"}]


@pytest.mark.parametrize(
    "act", [lambda s: s.request("x"), lambda s: s.send("x"), lambda s: s.ping()]
)
def test_nothing_but_auth_may_be_sent_before_ready(act: Any) -> None:
    session = ClientProtocol(0.0)
    for _ in range(2):
        with pytest.raises(LocalProtocolError) as caught:
            act(session)
        assert caught.value.code == "auth_required"
        if session.state is ClientState.CONNECTED:
            session.authenticate("t")
    assert len(session.outgoing) == 1


def test_nothing_may_be_sent_after_the_end() -> None:
    session = ready()
    session.lost()
    with pytest.raises(LocalProtocolError) as caught:
        session.send("x")
    assert caught.value.code == "disconnected"
    with pytest.raises(LocalProtocolError) as caught:
        session.authenticate("t")
    assert caught.value.code == "disconnected"


def test_requests_without_an_answer_are_bounded() -> None:
    session = ready()
    for _ in range(MAX_PENDING):
        session.ping()
    with pytest.raises(LocalProtocolError) as caught:
        session.request("x")
    assert caught.value.code == "too_many_in_flight"
    feed(session, type="pong", id=1)
    session.request("x")


def test_a_ping_of_the_server_is_answered_with_what_it_brought() -> None:
    session = ready()
    assert isinstance(feed(session, type="ping", id="p", data=[1]), Ping)
    assert sent(session) == [{"type": "pong", "id": "p", "data": [1]}]


def test_before_ready_a_ping_is_left_be_since_an_answer_would_be_an_error() -> None:
    session = ClientProtocol(0.0)
    assert isinstance(feed(session, type="ping"), Ping)
    assert not session.outgoing


def test_chunks_come_in_order_until_the_end() -> None:
    session = ready()
    id = session.request("ask")
    assert isinstance(feed(session, type="chunk", id=id, seq=0, data=1), Chunk)
    assert isinstance(feed(session, type="chunk", id=id, seq=1, data=2), Chunk)
    assert isinstance(feed(session, type="end", id=id), End)
    assert feed(session, type="chunk", id=id, seq=2, data=3) is None


def test_a_missing_chunk_is_the_servers_fault() -> None:
    session = ready()
    id = session.request("ask")
    with pytest.raises(RemoteProtocolError, match="Chunk 1 came in place of 0"):
        feed(session, type="chunk", id=id, seq=1, data=1)


def test_only_what_awaits_an_answer_is_cancelled() -> None:
    session = ready()
    id = session.request("ask")
    session.outgoing.clear()
    session.cancel(id)
    feed(session, type="end", id=id, cancelled=True)
    session.cancel(id)
    assert sent(session) == [{"type": "cancel", "id": id}]


def test_a_fatal_error_ends_the_session_and_says_why() -> None:
    session = ready()
    error = {"message": "", "retry": "refresh_token", "fatal": True}
    assert isinstance(feed(session, type="error", code="token_expired", **error), Error)
    assert session.state is ClientState.CLOSED
    assert session.failure is not None
    assert session.failure.retry == "refresh_token"


def test_an_error_that_is_not_fatal_ends_its_request_only() -> None:
    session = ready()
    id = session.request("x")
    feed(session, type="error", id=id, code="no_credit", message="", retry="never", fatal=False)
    assert session.state is ClientState.READY
    assert session.failure is None


@pytest.mark.parametrize("name", ["Ready", "Hello"])
def test_a_second_beginning_is_the_servers_fault(name: str) -> None:
    with pytest.raises(RemoteProtocolError, match="Out of place"):
        feed(ready(), **EXAMPLES[name])


def test_a_message_of_an_unknown_type_before_ready_is_nobodys() -> None:
    session = ClientProtocol(0.0)
    assert feed(session, type="news", data=1) is None
    session.authenticate("t")
    assert feed(session, type="auth_progress") is None
    assert session.state is ClientState.AUTHENTICATING


@pytest.mark.parametrize("message", [{"type": "ack", "id": 1}, {"type": "end", "id": 1}])
def test_an_answer_before_ready_is_the_servers_fault(message: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match="Out of place when connected"):
        feed(ClientProtocol(0.0), **message)


@pytest.mark.parametrize(
    ("retry", "advice"), [("never", "never"), ("elsewhere", "backoff"), ("", "backoff")]
)
def test_an_unknown_retry_means_backoff(retry: str, advice: str) -> None:
    session = ready()
    feed(session, type="error", code="new", message="", retry=retry, fatal=True)
    assert session.failure is not None
    assert session.failure.advice == advice


known = st.sampled_from([json.dumps(message).encode() for message in EXAMPLES.values()])


@given(
    st.lists(st.binary(max_size=40) | known | st.just(b"[" * 100_000), max_size=20), st.booleans()
)
def test_any_input_is_understood_or_the_servers_fault(
    texts: list[bytes], authenticated: bool
) -> None:
    session = ready() if authenticated else ClientProtocol(0.0)
    for text in texts:
        try:
            session.receive(text, 0.0)
            code = "protocol_error"
        except RemoteProtocolError as error:
            code = error.code
        assert code in ERRORS
