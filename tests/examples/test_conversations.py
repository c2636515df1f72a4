"""System 3, conversations, as its clients see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.running import running as running_here
from tests.support.systems import COMMAND, Demo, demo, refused_start
from trioserver import JWTAuth, Mailbox, Refusal
from trioserver.app.mailbox.store import Totals
from trioserver.auth import make_token
from trioserver.client import Client, RequestRejectedError, connect
from trioserver.examples import conversations
from trioserver.examples.conversation_store import MAX_MEMBERS, Store
from trioserver.storage import Database

DENIED = "Conversation not found or access denied"
NOTICES = frozenset({"shared", "unread"})
"""Kept for who was away in another test."""

SECRET = "the-secret-of-these-tests-" + "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo() as running:
        yield running


@pytest.fixture(scope="module")
def trusting() -> Iterator[Demo]:
    with demo("--trust-user-id") as running:
        yield running


# ------------------------------------------------------------------------- who may come in


def test_the_first_message_is_auth_with_a_token(running: Demo) -> None:
    with running.ready(running.conversation("alice"), "alice") as talk:
        assert talk.ready["user"] == {"id": "alice"}
        assert talk.ready["resource"] == {"conversation_id": "alice-1"}


@pytest.mark.parametrize(
    "first",
    [
        '{"type":"initial","user_id":"alice","username":"Alice","conversation_id":"alice-1"}',
        '{"type": "initial", "user_id": "alice", "username": null, "conversation_id": "alice-1"}',
    ],
)
def test_deployed_clients_send_initial_byte_for_byte(trusting: Demo, first: str) -> None:
    with trusting.open(trusting.conversation("alice")) as talk:
        talk.connection.send(first)
        ready = talk.receive()
        assert (ready["type"], ready["user"]) == ("ready", {"id": "alice"})
        assert ready["resource"] == {"conversation_id": "alice-1"}


def test_initial_with_a_token_is_auth(running: Demo) -> None:
    fields = {"type": "initial", "user_id": "bob", "conversation_id": "bob-1"}
    with running.ready(running.conversation("alice"), "alice", **fields) as talk:
        assert talk.ready["user"] == {"id": "alice"}, "the token says who it is"


def test_a_bare_user_id_is_not_believed_without_the_mode(running: Demo) -> None:
    with running.open(running.conversation("alice")) as talk:
        talk.send(type="initial", user_id="alice", conversation_id="alice-1")
        assert talk.refused()[1:] == (1008, "token_missing")


@pytest.mark.parametrize("user_id", [None, "", "\n", [], {"id": "alice"}, True, 1.5])
def test_a_missing_user_id_is_told_to_be_required(trusting: Demo, user_id: Any) -> None:
    fields = {} if user_id is None else {"user_id": user_id}
    with trusting.open(trusting.conversation("alice")) as talk:
        talk.send(type="initial", username="Alice", **fields)
        error, code, _ = talk.refused()
        assert (error["message"], code) == ("user_id required", 1008)


def test_not_found_and_not_yours_give_the_same_answer(running: Demo) -> None:
    answers = []
    for path in (running.conversation("bob"), "/ws/conversations/nobody-has-this"):
        with running.open(path) as talk:
            talk.send(type="auth", token=running.token("alice"))
            answers.append(talk.refused())
    assert answers[0] == answers[1]
    error, code, reason = answers[0]
    assert (error["message"], code, reason) == (DENIED, 1008, "access_denied")


def test_the_path_cannot_name_two_conversations_or_sql(running: Demo) -> None:
    for name in ("alice-1' OR '1'='1", "ALICE-1", "%61lice-1 "):
        with running.open(f"/ws/conversations/{name.replace(' ', '%20')}") as talk:
            talk.send(type="auth", token=running.token("alice"))
            assert talk.refused()[2] == "access_denied"


# ------------------------------------------------------------------------- what is said


def test_a_message_is_acknowledged_with_its_id_and_is_in_the_history(running: Demo) -> None:
    with running.ready(running.conversation("alice"), "alice") as talk:
        ack = talk.request("message", 1, text="I like trees")
        assert set(ack) == {"type", "id", "data"}
        assert set(ack["data"]) == {"message_id"}
        (last,) = talk.request("history", 2, limit=1)["data"]["messages"]
        assert last["message_id"] == ack["data"]["message_id"]
        assert (last["role"], last["by"], last["text"]) == ("user", "alice", "I like trees")


def test_an_answer_is_tool_call_result_text_and_end_in_order(running: Demo) -> None:
    with running.ready(running.conversation("alice"), "alice") as talk:
        talk.request("message", 1, text="Cherry trees blossom")
        *chunks, end = talk.stream("ask", 2, text="What of cherry trees?")
        kinds = [chunk["data"]["kind"] for chunk in chunks]
        assert kinds == ["tool_call", "tool_result", *["text"] * (len(kinds) - 2)]
        assert chunks[0]["data"]["name"] == "search_history"
        assert "Cherry trees blossom" in chunks[1]["data"]["result"]
        assert end == {"type": "end", "id": 2}
        text = "".join(chunk["data"]["text"] for chunk in chunks[2:])
        (last,) = talk.request("history", 3, limit=1)["data"]["messages"]
        assert (last["role"], last["text"]) == ("assistant", text.strip())


def test_a_cancelled_answer_ends_and_the_connection_goes_on(running: Demo) -> None:
    with running.ready(running.conversation("alice", 1), "alice") as talk:
        talk.send(type="ask", id=1, data={"text": "a long question " * 50})
        talk.send(type="ask", id=2, data={"text": "short"})
        messages = [talk.receive() for _ in range(6)]
        talk.send(type="cancel", id=1)
        while not {1, 2} <= {m["id"] for m in messages if m["type"] == "end"}:
            messages.append(talk.receive())
        ends = {m["id"]: m.get("cancelled", False) for m in messages if m["type"] == "end"}
        assert ends == {1: True, 2: False}
        for id in (1, 2):
            chunks = [m["seq"] for m in messages if m["type"] == "chunk" and m["id"] == id]
            assert chunks == list(range(len(chunks)))
        assert talk.request("message", 3, text="still here")["type"] == "ack"


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("message", {}),
        ("message", {"text": ""}),
        ("message", {"text": 5}),
        ("message", {"text": "x" * 10_001}),
        ("ask", {"text": None}),
        ("history", {"limit": 201}),
        ("history", {"before": 2**63}),
        ("history", {"before": 10**30}),
        ("share", {"user": ""}),
        ("share", {"user": "a\u0000b"}),
        ("share", {"user": "x" * 65}),
    ],
)
def test_what_does_not_fit_is_answered_and_changes_nothing(
    running: Demo, type: str, data: dict[str, Any]
) -> None:
    with running.ready(running.conversation("alice"), "alice") as talk:
        before = talk.request("history", 1)
        talk.send(type=type, id=2, data=data)
        error = talk.receive()
        assert (error["code"], error["fatal"]) == ("invalid_payload", False)
        assert talk.request("history", 1) == before


# ------------------------------------------------------------------------- together


def test_who_is_there_is_told_and_so_is_who_comes_and_goes(running: Demo) -> None:
    path = running.conversation("alice")
    with running.ready(path, "alice") as alice:
        alice.request("share", 1, user="bob")
        present = alice.request("present", 2)["data"]
        assert [(user["user"], user["connections"]) for user in present["users"]] == [("alice", 1)]
        assert alice.request("subscribe", 3)["code"] == "invalid_payload"
        alice.send(type="subscribe", id=4, topics=[present["topic"]])
        assert alice.receive()["type"] == "ack"
        with running.ready(path, "bob"):
            assert alice.receive()["data"] == {"event": "join", "user": "bob"}
            users = alice.request("present", 5)["data"]["users"]
            assert {user["user"] for user in users} == {"alice", "bob"}
        assert alice.receive()["data"] == {"event": "leave", "user": "bob"}
        alice.send(type="subscribe", id=6, topics=["presence:/ws/conversations/bob-1"])
        assert alice.receive()["code"] == "forbidden"


def test_who_is_in_the_same_conversation_hears_what_is_said(running: Demo) -> None:
    path = running.conversation("alice", 1)
    with running.ready(path, "alice") as alice:
        alice.request("share", 1, user="bob")
        with running.ready(path, "bob") as bob:
            bob.ignored = NOTICES
            id = alice.request("message", 2, text="Hello, Bob")["data"]["message_id"]
            expected = {"message_id": id, "role": "user", "by": "alice", "text": "Hello, Bob"}
            assert bob.receive() == {"type": "said", "data": expected}


def test_only_the_owner_shares_and_who_is_no_longer_in_is_sent_out(running: Demo) -> None:
    path = running.conversation("bob")
    with running.ready(path, "bob") as bob:
        bob.ignored = NOTICES  # other tests share with him, and the server keeps it
        bob.request("share", 1, user="alice")
        assert bob.request("unshare", 2, user="bob")["code"] == "forbidden"
        with running.ready(path, "alice") as alice:
            alice.ignored = NOTICES
            for type in ("share", "unshare"):
                assert alice.request(type, 3, user="carol")["code"] == "forbidden"
            assert bob.request("unshare", 4, user="alice")["type"] == "ack"
            error, code, reason = alice.refused()
            assert (error["message"], code, reason) == (DENIED, 1008, "access_denied")
        with running.open(path) as talk:
            talk.send(type="auth", token=running.token("alice"))
            assert talk.refused()[2] == "access_denied"


async def test_a_conversation_has_so_many_members(tmp_path: Path) -> None:
    async with Database(tmp_path / "x.db") as database:
        store = Store(database)
        await store.create({"alice": ["1"]})
        for number in range(MAX_MEMBERS - 1):
            assert await store.share("1", "alice", f"user-{number}")
        with pytest.raises(Refusal, match="too_many_members"):
            await store.share("1", "alice", "one-more")


@attrs.frozen
class Chat:
    """The application in this process, and the users of whom it knows."""

    url: str
    mailbox: Mailbox

    def connect(self, user: str, conversation: str) -> AbstractAsyncContextManager[Client]:
        return connect(
            f"{self.url}/ws/conversations/{conversation}", token=make_token(SECRET, subject=user)
        )


@asynccontextmanager
async def chatting(path: Path) -> AsyncIterator[Chat]:
    application = conversations.make(
        f"sqlite:///{path / 'x.db'}",
        auth=JWTAuth(secret=SECRET),
        seed={"alice": ["alice-1", "alice-2"], "bob": ["bob-1"]},
    )
    async with running_here(application=application) as server:
        yield Chat(server.addresses[0].url, application.mailbox)


async def test_what_others_have_sent_cannot_be_pushed_out_by_notices(tmp_path: Path) -> None:
    async with chatting(tmp_path) as chat:
        async with chat.connect("alice", "alice-2") as genuine:
            await genuine.request("share", {"user": "bob"})
        async with chat.connect("alice", "alice-1") as alice:
            for _ in range(20):
                await alice.request("share", {"user": "bob"})
                assert await chat.mailbox.waiting("bob") == 2
                await alice.request("unshare", {"user": "bob"})
                assert await chat.mailbox.waiting("bob") == 1, "what is not true any more is gone"
            await alice.request("share", {"user": "bob"})
            ids = [
                (await alice.request("message", {"text": str(number)}))["message_id"]
                for number in range(20)
            ]
        assert await chat.mailbox.waiting("bob") == 3
        async with chat.connect("bob", "bob-1") as bob:
            messages = bob.messages()
            kept = [await anext(messages) for _ in range(3)]
        assert [(each.type, each.data) for each in kept] == [
            ("shared", {"conversation_id": "alice-2", "by": "alice"}),
            ("shared", {"conversation_id": "alice-1", "by": "alice"}),
            ("unread", {"conversation_id": "alice-1", "by": "alice", "message_id": ids[-1]}),
        ]


async def test_users_who_do_not_exist_get_no_mailbox(tmp_path: Path) -> None:
    async with chatting(tmp_path) as chat, chat.connect("alice", "alice-1") as alice:
        with pytest.raises(RequestRejectedError) as refused:
            await alice.request("share", {"user": "nobody"})
        assert refused.value.code == "not_found"
        await alice.request("message", {"text": "x"})
        assert await chat.mailbox.waiting("nobody") == 0


async def test_a_mailbox_that_is_full_keeps_nobody_from_sharing(tmp_path: Path) -> None:
    async with chatting(tmp_path) as chat, chat.connect("alice", "alice-1") as alice:
        chat.mailbox._capacity._bounds = Totals(messages=1, bytes=10_000, users=1)
        await chat.mailbox.send("alice", "note", "x")
        await alice.request("share", {"user": "bob"})
        await alice.request("message", {"text": "x"})
        async with chat.connect("bob", "alice-1") as bob:
            assert len((await bob.request("history"))["messages"]) == 1


def test_messages_for_who_is_away_survive_a_kill_and_come_once(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    with (
        demo(*data, TRIOSERVER_SECRET=SECRET) as first,
        first.ready(first.conversation("alice"), "alice") as alice,
    ):
        assert alice.request("share", 1, user="bob")["type"] == "ack"
        id = alice.request("message", 2, text="Read this, Bob")["data"]["message_id"]
        first.kill()
    with demo(*data, TRIOSERVER_SECRET=SECRET) as second:
        with second.ready(second.conversation("bob"), "bob") as bob:
            kept = [bob.receive() for _ in range(2)]
            assert [(message["type"], message["data"]) for message in kept] == [
                ("shared", {"conversation_id": "alice-1", "by": "alice"}),
                ("unread", {"conversation_id": "alice-1", "message_id": id, "by": "alice"}),
            ]
        with second.ready("/ws/conversations/alice-1", "bob") as bob:
            said = bob.request("history", 1)["data"]["messages"]  # and nothing comes before it
            assert [(entry["by"], entry["text"]) for entry in said] == [("alice", "Read this, Bob")]


def test_the_mode_that_trusts_refuses_other_addresses_than_loopback() -> None:
    stderr = refused_start([*COMMAND, "--trust-user-id", "--host", "0.0.0.0"])
    assert "127.0.0.1" in stderr


def test_hello_and_ready_are_all_that_comes_unasked(running: Demo) -> None:
    with running.ready(running.conversation("alice"), "alice") as talk:
        assert json.dumps(talk.request("ping", "p")).startswith('{"type": "pong", "id": "p"')
