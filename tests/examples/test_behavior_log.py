"""System 1, the behaviour log, as a phone and as an administrator see it."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import httpx
import jwt
import pytest
import trio
from websockets.exceptions import ConnectionClosed

from tests.support.databases import sqlite
from tests.support.patience import PATIENCE
from tests.support.running import running as serving
from tests.support.systems import Demo, Talk, demo
from trioserver import Application, Refusal
from trioserver.auth import make_secret, make_token
from trioserver.examples import accounts, behavior_log
from trioserver.examples.behavior_store import Store, Stored, metadata, sessions
from trioserver.storage import Database

SECRET = make_secret()
EVENT: dict[str, Any] = {"event_type": "key_press", "at": 1_700_000_000.5, "data": {"key": "a"}}


@attrs.frozen
class World:
    """A demo, and what a phone and an administrator do with it."""

    demo: Demo
    data: Path

    @property
    def mpin(self) -> dict[str, str]:
        return dict(self.demo.facts["mpin"])

    def post(self, path: str, body: Any, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.post(self.demo.http + path, json=body, headers=headers, timeout=PATIENCE)

    def login(self) -> tuple[str, str]:
        """The session's id, and its token."""
        answer = self.post("/api/v1/mpin-login", self.mpin)
        assert answer.status_code == 200, answer.text
        return answer.json()["session_id"], answer.json()["session_token"]

    def session(self) -> tuple[str, str]:
        """The same as after a login, without the time that hashing takes."""
        id = uuid.uuid4().hex
        with sqlite(self.data / "demo.db") as database:
            row = (id, "user001", "9876543210", "device001", 0.0, False)
            database.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)", row)
        claims = {"phone": "9876543210", "session_id": id, "sid": id}
        return id, make_token(SECRET, subject="user001", claims=claims, audience="behavior-log")

    def admin(self, path: str, body: Any = None) -> httpx.Response:
        return self.post(path, body, self.demo.token("admin"))

    def refused(self, session: str, **first: Any) -> tuple[str, int, str]:
        """The code of the error, and how the connection was closed."""
        with self.demo.open(f"/api/v1/ws/behavior/{session}") as talk:
            talk.send(type="auth", **first)
            error, code, reason = talk.refused()
            return error["code"], code, reason

    def stored(self, session: str) -> list[tuple[str | None, str]]:
        """The keys and the types of the events of a session, from the database."""
        return stored(self.data / "demo.db", session)


def stored(path: Path, session: str) -> list[tuple[str | None, str]]:
    with sqlite(path) as database:
        return database.execute(
            "SELECT event_id, event_type FROM behavior_events WHERE session_id = ? ORDER BY id",
            (session,),
        ).fetchall()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    data = tmp_path_factory.mktemp("behavior")
    with demo("--data", str(data), TRIOSERVER_SECRET=SECRET) as running:
        yield World(running, data)


def at(session: str, token: str) -> str:
    return f"/api/v1/ws/behavior/{session}?token={token}"


def enter(talk: Talk) -> Talk:
    message = talk.receive()
    assert message["type"] == "ready", message
    return talk


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def without_a_session(**options: Any) -> str:
    return make_token(SECRET, subject="user001", audience="behavior-log", **options)


def with_claims(token: str, **changed: Any) -> str:
    """The same token with other claims, and a good signature."""
    claims = claims_of(token) | changed
    return make_token(SECRET, subject=claims["sub"], claims=claims)


# ------------------------------------------------------------------------------ logging in


def test_a_login_gives_a_session_and_a_token_that_says_whose_it_is(world: World) -> None:
    session, token = world.login()
    claims = claims_of(token)
    assert claims["phone"] == "9876543210"
    assert claims["session_id"] == claims["sid"] == session
    assert claims["jti"] != claims_of(world.login()[1])["jti"]
    assert claims["exp"] - claims["iat"] == pytest.approx(1800, abs=1)


def test_a_known_session_is_come_back_to(world: World) -> None:
    session, token = world.login()
    answer = world.post("/api/v1/verify-mpin", world.mpin | {"session_id": session})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["session_id"] == session
    again = answer.json()["session_token"]
    assert again != token
    with world.demo.open(at(session, again)) as talk:
        enter(talk)


def test_whatever_is_wrong_the_answer_is_the_same(world: World) -> None:
    session, _ = world.login()
    known = world.mpin | {"session_id": session}
    answers = [
        world.post("/api/v1/mpin-login", world.mpin | {"mpin": "654321"}),
        world.post("/api/v1/mpin-login", world.mpin | {"phone": "9876543219"}),
        world.post("/api/v1/verify-mpin", known | {"mpin": "654321"}),
        world.post("/api/v1/verify-mpin", known | {"phone": "9876543219"}),
        world.post("/api/v1/verify-mpin", known | {"device_id": "device002"}),
        world.post("/api/v1/verify-mpin", known | {"session_id": "0" * 32}),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["error"]["code"] == "mpin_invalid"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"\xff{}", 400),
        (b'{"phone":"9876543210","mpin":123456,"device_id":"device001"}', 400),
        (b'{"phone":"9876543210","mpin":"12345a","device_id":"device001"}', 400),
        (b'{"phone":"x","mpin":"123456","device_id":"device001"}', 400),
        (b'{"phone":"9876543210","mpin":"123456"}', 400),
        (b'{"phone":"9876543210","mpin":"123456","device_id":""}', 400),
        (b'{"phone":"' + b"9" * 5000 + b'"}', 413),
        (b"[" * 4000, 400),
    ],
)
def test_what_is_no_login_is_refused_without_repeating_it(
    world: World, body: bytes, status: int
) -> None:
    for path in ("/api/v1/mpin-login", "/api/v1/verify-mpin"):
        answer = httpx.post(
            world.demo.http + path, content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status
        assert "12345" not in answer.text
    assert httpx.get(world.demo.http + "/api/v1/mpin-login").status_code == 405
    assert httpx.post(world.demo.http + "/api/v1/mpin-login", data={"x": 1}).status_code == 415


def test_mpins_are_stored_hashed(world: World) -> None:
    world.login()
    with sqlite(world.data / "demo.db") as database:
        ((mpin,),) = database.execute("SELECT mpin FROM phones")
    assert mpin.startswith("scrypt$16384$8$")
    assert "123456" not in mpin


@attrs.frozen
class Door:
    """The application in this process, where hashing costs little."""

    url: str

    async def login(
        self, how: str = "mpin-login", *, cookies: dict[str, str] | None = None, **changed: str
    ) -> httpx.Response:
        body = {"phone": "9876543210", "mpin": "123456", "device_id": "device001"} | changed
        async with httpx.AsyncClient(cookies=cookies) as client:
            return await client.post(f"{self.url}/api/v1/{how}", json=body)


def application(path: Path) -> Application:
    return behavior_log.make(
        f"sqlite:///{path / 'x.db'}",
        secret=SECRET,
        token_lifetime=60.0,
        users={"9876543210": ("user001", "123456")},
    )


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "COST", {"n": 16, "r": 8, "p": 1})
    # A busy machine may take minutes for a test, and no attempt is to come back meanwhile.
    monkeypatch.setattr(behavior_log, "ADDRESS_REFILL", 3600.0)
    monkeypatch.setattr(behavior_log, "BOTH_REFILL", 3600.0)
    monkeypatch.setattr(behavior_log, "DEVICE_REFILL", 3600.0)


async def test_wrong_mpins_of_a_phone_are_limited_whether_or_not_it_exists(
    cheap: None, tmp_path: Path
) -> None:
    async with serving(application=application(tmp_path)) as server:
        door = Door("http" + server.addresses[0].url.removeprefix("ws"))
        for _ in range(behavior_log.BOTH_ATTEMPTS - 1):
            assert (await door.login(mpin="000000")).status_code == 401
        assert (await door.login()).status_code == 200, "what is right does not count"
        assert (await door.login(mpin="000000")).status_code == 401
        refused = await door.login()
        assert refused.status_code == 429, "now not even the right one"
        assert 1 < int(refused.headers["retry-after"]) <= behavior_log.BOTH_REFILL
        for _ in range(behavior_log.BOTH_ATTEMPTS):
            assert (await door.login(phone="1111111111")).status_code == 401
        nobody = await door.login(phone="1111111111")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("known_by", ["cookie", "body", "session"])
async def test_a_guesser_does_not_lock_out_a_device_of_the_phones_owner(
    known_by: str, cheap: None, tmp_path: Path
) -> None:
    """Not even one behind the same address, that goes on without an end."""
    async with serving(application=application(tmp_path)) as server:
        door = Door("http" + server.addresses[0].url.removeprefix("ws"))
        first = await door.login()
        token = first.json()["device_token"]
        for _ in range(behavior_log.BOTH_ATTEMPTS):
            assert (await door.login(mpin="000000")).status_code == 401
        for number in range(behavior_log.ADDRESS_ATTEMPTS):
            await door.login(phone=f"22222222{number:02}")
        for _ in range(3):
            assert (await door.login()).status_code == 429
            if known_by == "cookie":
                again = await door.login(cookies=dict(first.cookies))
            elif known_by == "body":
                again = await door.login(device_token=token)
            else:
                again = await door.login("verify-mpin", session_id=first.json()["session_id"])
            assert again.status_code == 200
        assert (await door.login(phone="1111111111", device_token=token)).status_code == 429
        assert (await door.login(device_token=token[:-1])).status_code == 429
        for _ in range(behavior_log.DEVICE_ATTEMPTS):
            assert (await door.login(device_token=token, mpin="000000")).status_code == 401
        assert (await door.login(device_token=token)).status_code == 429, "it has its own limit"


async def test_tries_that_the_lock_of_a_phone_refuses_are_charged_to_nobody(
    cheap: None, tmp_path: Path
) -> None:
    async with serving(application=application(tmp_path)) as server:
        door = Door("http" + server.addresses[0].url.removeprefix("ws"))
        for _ in range(behavior_log.BOTH_ATTEMPTS):
            assert (await door.login(mpin="000000")).status_code == 401
        for _ in range(2 * behavior_log.ADDRESS_ATTEMPTS):  # an app that tries again and again
            assert (await door.login()).status_code == 429
        neighbour = await door.login(phone="1112223334")
        assert neighbour.status_code == 401, "whoever is behind the same address may try"


async def test_wrong_mpins_from_an_address_are_limited_whatever_the_phones(
    cheap: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(behavior_log, "ADDRESS_ATTEMPTS", 3)
    async with serving(application=application(tmp_path)) as server:
        door = Door("http" + server.addresses[0].url.removeprefix("ws"))
        for number in range(3):
            assert (await door.login(phone=f"111111111{number}")).status_code == 401
        assert (await door.login()).status_code == 429


async def test_guesses_at_the_same_time_are_not_more_guesses(cheap: None, tmp_path: Path) -> None:
    statuses: list[int] = []
    async with serving(application=application(tmp_path)) as server:
        door = Door("http" + server.addresses[0].url.removeprefix("ws"))

        async def guess(number: int) -> None:
            statuses.append((await door.login(mpin=f"{number:06}")).status_code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(guess, number)
    assert statuses.count(401) == behavior_log.BOTH_ATTEMPTS
    assert statuses.count(429) == 12 - behavior_log.BOTH_ATTEMPTS


# ------------------------------------------------------------------------------ who may come in


def test_the_token_comes_in_the_query_or_in_the_first_message(world: World) -> None:
    session, token = world.session()
    with world.demo.open(at(session, token)) as talk:
        ready = talk.receive()
        assert ready["resource"] == {"session_id": session}
    with world.demo.open(f"/api/v1/ws/behavior/{session}") as talk:
        talk.send(type="auth", token=token)
        enter(talk)


def test_each_check_has_a_reason_of_its_own(world: World) -> None:
    session, token = world.session()
    head, body, signature = token.split(".")
    assert [
        world.refused(session),
        world.refused(session, token=f"{head}.{body}.{signature[::-1]}"),
        world.refused(session, token=without_a_session(lifetime=-3600)),
        world.refused(session, token=with_claims(token, exp=1)),
        world.refused(session, token=world.demo.token("alice")),
        world.refused("0" * 32, token=token),
        world.refused(session, token=with_claims(token, sub="user002")),
        world.refused(session, token=with_claims(token, phone="1111111111")),
    ] == [
        ("token_missing", 1008, "token_missing"),
        ("token_invalid", 1008, "token_invalid"),
        ("token_invalid", 1008, "token_invalid"),  # no session token, and that comes first
        ("token_expired", 1008, "token_expired"),
        ("token_invalid", 1008, "token_invalid"),
        ("session_not_found", 1008, "session_not_found"),
        ("session_mismatch", 1008, "session_mismatch"),
        ("session_mismatch", 1008, "session_mismatch"),
    ]


@pytest.mark.parametrize("how", ["in the store", "by the server"])
def test_they_are_checked_in_their_order(world: World, how: str) -> None:
    """Each token has all the faults from some check on; the first of them is told."""
    session, token = world.session()
    if how == "in the store":
        assert world.admin(f"/api/v1/sessions/{session}/block").status_code == 200
    else:
        assert world.admin("/api/v1/admin/blocks", {"sid": session}).status_code == 201
    other = with_claims(token, phone="1111111111")
    assert world.refused(session, token=with_claims(other, exp=1))[0] == "token_expired"
    assert world.refused("0" * 32, token=other)[0] == "session_not_found"
    assert world.refused(session, token=other)[0] == "session_mismatch"
    assert world.refused(session, token=token) == ("session_blocked", 1008, "session_blocked")
    answer = world.post("/api/v1/verify-mpin", world.mpin | {"session_id": session})
    assert how == "by the server" or answer.status_code == 403


def test_the_session_inside_the_token_is_not_compared_with_the_urls(world: World) -> None:
    (first, token), (second, _) = world.login(), world.login()
    assert first != second
    with world.demo.open(at(second, token)) as talk:
        enter(talk)
        assert talk.request("behavior", **EVENT)["type"] == "ack"
    assert world.stored(second) == [(None, "key_press")]
    assert world.stored(first) == []


@pytest.mark.parametrize("how", ["in the store", "by the server"])
def test_blocking_a_session_closes_its_live_connections_at_once(world: World, how: str) -> None:
    (session, token), (_, other) = world.session(), world.session()
    untouched, its_token = world.session()
    with (
        world.demo.open(at(session, token)) as one,
        world.demo.open(at(session, other)) as two,
        world.demo.open(at(untouched, its_token)) as three,
    ):
        for talk in (one, two, three):
            enter(talk)
        paths = [f"/api/v1/sessions/{session}/block", f"/api/v1/sessions/{session}/unblock"]
        if how == "by the server":
            paths = ["/api/v1/admin/blocks", "/api/v1/admin/unblock"]
        body = {"sid": session} if how == "by the server" else None
        answer = world.admin(paths[0], body)
        assert answer.json()["disconnected"] == 2
        for talk in (one, two):
            error, code, reason = talk.refused()
            assert (error["code"], code, reason) == ("session_blocked", 1008, "session_blocked")
        assert three.request("behavior", **EVENT)["type"] == "ack"
    assert world.refused(session, token=other)[0] == "session_blocked"
    assert world.admin(paths[1], body).status_code == 200
    with world.demo.open(at(session, token)) as talk:
        enter(talk)


def test_only_administrators_block_and_only_what_there_is(world: World) -> None:
    session, token = world.session()
    path = f"/api/v1/sessions/{session}/block"
    assert world.post(path, None).status_code == 401
    assert world.post(path, None, "nonsense").json()["error"]["code"] == "token_invalid"
    assert world.post(path, None, token).status_code == 401  # it is not for the administration
    assert world.post(path, None, world.demo.token("alice")).status_code == 403
    assert world.admin(f"/api/v1/sessions/{'0' * 32}/block").status_code == 404
    with world.demo.open(at(session, token)) as talk:
        enter(talk)


# ------------------------------------------------------------------------------ events


def test_an_event_is_acknowledged_byte_for_byte(world: World) -> None:
    session, token = world.session()
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        talk.connection.send(
            '{"type":"behavior","id":"e1","data":{"event_type":"key_press","at":1.5,"data":{}}}'
        )
        assert talk.connection.recv() == (
            '{"type":"ack","id":"e1","data":{"event_type":"key_press","status":"processed"}}'
        )
        for at_, type_ in ((0, "mouse_movement"), ("2026-01-31T12:00:00Z", "scroll")):
            answer = talk.request("behavior", id=type_, event_type=type_, at=at_, data={"x": 1})
            assert answer["data"] == {"event_type": type_, "status": "processed"}


def test_an_event_sent_twice_is_stored_once_and_acknowledged_twice(world: World) -> None:
    session, token = world.session()
    keyed = EVENT | {"event_id": "01J8Z3-1"}
    reordered = {key: keyed[key] for key in reversed(keyed)}
    for number in range(2):
        with world.demo.open(at(session, token)) as talk:
            enter(talk)
            for id, event in ((number, keyed), ("x", reordered)):
                answer = talk.request("behavior", id=id, **event)
                assert (answer["type"], answer["id"]) == ("ack", id)
    assert world.stored(session) == [("01J8Z3-1", "key_press")]


def test_events_of_two_connections_that_count_ids_anew_are_all_stored(world: World) -> None:
    session, token = world.session()
    for visit in ("before", "after"):
        with world.demo.open(at(session, token)) as talk:
            enter(talk)
            for number in range(1, 11):
                answer = talk.request("behavior", id=number, event_type=f"{visit}_{number}")
                assert answer["data"]["event_type"] == f"{visit}_{number}"
    types = [type_ for _, type_ in world.stored(session)]
    assert types == [f"{visit}_{n}" for visit in ("before", "after") for n in range(1, 11)]


@pytest.mark.parametrize("missing", [{}, {"event_id": None}])
def test_without_a_key_every_message_is_a_new_event(world: World, missing: dict[str, None]) -> None:
    session, token = world.session()
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        for _ in range(2):
            assert talk.request("behavior", id=1, **EVENT, **missing)["type"] == "ack"
    assert world.stored(session) == [(None, "key_press")] * 2


@pytest.mark.parametrize(
    "other", [{"event_type": "scroll"}, {"at": 2}, {"at": None}, {"data": {"key": "b"}}]
)
def test_the_same_key_with_other_content_is_a_conflict_and_not_stored(
    world: World, other: dict[str, Any]
) -> None:
    session, token = world.session()
    keyed = EVENT | {"event_id": "k"}
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        assert talk.request("behavior", id=1, **keyed)["type"] == "ack"
        answer = talk.request("behavior", id=2, **keyed | other)
        assert (answer["code"], answer["retry"], answer["fatal"]) == (
            "key_conflict",
            "never",
            False,
        )
        assert talk.request("behavior", id=3, **keyed)["type"] == "ack"
    assert world.stored(session) == [("k", "key_press")]


def test_a_key_counts_in_its_own_session_only(world: World) -> None:
    for session, token in (world.session(), world.session()):
        with world.demo.open(at(session, token)) as talk:
            enter(talk)
            answer = talk.request("behavior", id=1, **EVENT | {"event_id": "k", "at": session})
            assert answer["type"] == "ack"
        assert world.stored(session) == [("k", "key_press")]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"event_type": ""},
        {"event_type": "two words"},
        {"event_type": "x" * 65},
        {"event_type": 1},
        {"event_type": "x", "at": []},
        {"event_type": "x", "data": []},
        {"event_type": "x", "data": {"x": "y" * behavior_log.MAX_EVENT}},
        {"event_type": "x", "event_id": ""},
        {"event_type": "x", "event_id": 1},
        {"event_type": "x", "event_id": "x" * 65},
        {"event_type": "x", "event_id": "two words"},
        None,
        "x",
    ],
)
def test_what_is_no_event_is_refused_and_the_connection_goes_on(world: World, data: Any) -> None:
    session, token = world.session()
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        talk.send(type="behavior", id=1, data=data)
        answer = talk.receive()
        assert (answer["code"], answer["id"], answer["fatal"]) == ("invalid_payload", 1, False)
        assert talk.request("behavior", id=2, **EVENT)["type"] == "ack"
    assert world.stored(session) == [(None, "key_press")]


def test_an_event_without_an_id_is_not_stored(world: World) -> None:
    session, token = world.session()
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        talk.send(type="behavior", data=EVENT)
        assert talk.receive()["code"] == "invalid_payload"
    assert world.stored(session) == []


def test_any_text_that_json_can_carry_is_stored(world: World) -> None:
    session, token = world.session()
    text = '{"type":"behavior","id":"\\u0000€","data":{"event_type":"x","data":{"k":"\\u0000😀"}}}'
    with world.demo.open(at(session, token)) as talk:
        enter(talk)
        talk.connection.send(text)
        assert talk.receive()["type"] == "ack"
    assert world.stored(session) == [(None, "x")]


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    arguments = ("--data", str(tmp_path))
    acknowledged: dict[str, set[str]] = {}

    def send_until_killed(running: Demo, session: str, token: str) -> None:
        mine = acknowledged.setdefault(session, set())
        with running.open(at(session, token)) as talk:
            enter(talk)
            for number in range(100_000):
                try:
                    answer = talk.request("behavior", id=number, **EVENT, event_id=f"e{number}")
                except ConnectionClosed:
                    return
                assert answer["type"] == "ack"
                mine.add(f"e{number}")
                if number == 30:
                    running.process.kill()

    with demo(*arguments, TRIOSERVER_SECRET=SECRET) as running, ThreadPoolExecutor() as threads:
        world = World(running, tmp_path)
        logins = [world.session() for _ in range(4)]
        for done in [threads.submit(send_until_killed, running, *login) for login in logins]:
            done.result(timeout=PATIENCE)
    for session, ids in acknowledged.items():
        assert len(ids) > 5
        assert ids <= {id for id, _ in stored(tmp_path / "demo.db", session)}
    with demo(*arguments, TRIOSERVER_SECRET=SECRET) as running:
        world = World(running, tmp_path)
        session, token = logins[0]
        before = world.stored(session)
        with running.open(at(session, token)) as talk:
            enter(talk)
            for number in range(5):
                answer = talk.request("behavior", id=99, **EVENT, event_id=f"e{number}")
                assert answer["type"] == "ack"
        assert world.stored(session) == before


async def test_events_that_come_together_share_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with Database(path) as database, trio.open_nursery() as nursery:
        store = await _store(database, nursery)
        async with trio.open_nursery() as phones:
            for number in range(60):
                event = Stored("s", str(number), "key_press", "null", "{}")
                phones.start_soon(store.record, event)
        nursery.cancel_scope.cancel()
    with sqlite(path) as rows:
        ((count, commits),) = rows.execute(
            "SELECT count(*), count(DISTINCT received_at) FROM behavior_events"
        )
    assert count == 60
    assert commits <= 3


async def test_what_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with Database(path, timeout=0.3) as database, trio.open_nursery() as nursery:
        store = await _store(database, nursery)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # somebody else writes, and does not come to an end
        with pytest.raises(Refusal, match="unavailable"):
            await store.record(Stored("s", "1", "key_press", "null", "{}"))
        other.execute("ROLLBACK")
        other.close()
        await store.record(Stored("s", "2", "key_press", "null", "{}"))
        nursery.cancel_scope.cancel()
    assert ("2", "key_press") in stored(path, "s")


async def test_events_that_come_together_are_compared_with_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    outcomes: dict[str, list[str]] = {}

    async def send(name: str, event: Stored) -> None:
        try:
            await store.record(event)
        except Refusal as refusal:
            outcomes.setdefault(name, []).append(refusal.code)
        else:
            outcomes.setdefault(name, []).append("stored")

    async with Database(path) as database, trio.open_nursery() as nursery:
        store = await _store(database, nursery)
        async with trio.open_nursery() as phones:
            for _ in range(3):
                phones.start_soon(send, "no key", Stored("s", None, "x", "1", "{}"))
                phones.start_soon(send, "same", Stored("s", "a", "x", "1", '{"a":1,"b":2}'))
                phones.start_soon(send, "same", Stored("s", "a", "x", "1.0", '{"b":2,"a":1}'))
            for number in range(3):
                phones.start_soon(send, "differ", Stored("s", "b", "x", str(number), "{}"))
        nursery.cancel_scope.cancel()
    assert outcomes["no key"] == ["stored"] * 3
    assert outcomes["same"] == ["stored"] * 6
    assert sorted(outcomes["differ"]) == ["key_conflict", "key_conflict", "stored"]
    assert sorted(key or "" for key, _ in stored(path, "s")) == ["", "", "", "a", "b"]


async def test_events_of_the_previous_version_are_kept_and_take_no_key(
    cheap: None, tmp_path: Path
) -> None:
    """That version stored the request's id, as JSON, under a constraint that took no NULL."""
    path = tmp_path / "x.db"
    async with serving(application=application(tmp_path)):
        pass
    with sqlite(path) as old:
        old.executescript(
            """
            DELETE FROM trioserver_schema WHERE component = 'behavior_log';
            DROP TABLE behavior_events;
            CREATE TABLE behavior_events (
                id INTEGER NOT NULL PRIMARY KEY, session_id VARCHAR(64) NOT NULL,
                event_id VARCHAR(400) NOT NULL, event_type VARCHAR(64) NOT NULL, at TEXT NOT NULL,
                data TEXT NOT NULL, received_at FLOAT NOT NULL, UNIQUE (session_id, event_id),
                FOREIGN KEY(session_id) REFERENCES sessions (id));
            INSERT INTO sessions VALUES ('s', 'user001', '9876543210', 'device001', 0.0, 0);
            INSERT INTO behavior_events VALUES (7, 's', '1', 'old', '1.5', '{"k":1}', 5.0);
            INSERT INTO behavior_events VALUES (9, 's', '"1"', 'old', 'null', '{}', 6.0);
            """
        )
    for _ in range(2):  # once upgraded, it stays as it is
        async with serving(application=application(tmp_path)):
            pass
    with sqlite(path) as upgraded:
        rows = upgraded.execute("SELECT * FROM behavior_events ORDER BY id").fetchall()
    assert rows == [
        (7, "s", None, "old", "1.5", '{"k":1}', 5.0),
        (9, "s", None, "old", "null", "{}", 6.0),
    ]
    async with Database(path) as database, trio.open_nursery() as nursery:
        store = Store(database)
        await nursery.start(store.run)
        await store.record(Stored("s", "1", "new", "null", "{}"))
        nursery.cancel_scope.cancel()
    assert stored(path, "s")[-1] == ("1", "new")


async def _store(database: Database, nursery: trio.Nursery) -> Store:
    """A store that runs, with a session "s"."""
    await database.run(metadata.create_all)
    row = {"id": "s", "user_id": "u", "phone": "1", "device_id": "d", "created_at": 0.0}
    insert = sessions.insert().values(row | {"blocked": False})
    await database.run(lambda connection: connection.execute(insert).rowcount)
    store = Store(database)
    await nursery.start(store.run)
    return store


# ------------------------------------------------------------------------------ looking into tokens


def test_an_administrator_looks_into_a_token_without_trusting_it(world: World) -> None:
    session, token = world.session()
    path = "/api/v1/admin/inspect-token"
    good = world.admin(path, {"token": token}).json()
    assert (good["verified"], good["refusal"]) == (True, None)
    assert good["claims"]["session_id"] == session
    expired = world.admin(path, {"token": with_claims(token, exp=1)}).json()
    assert expired["refusal"]["code"] == "token_expired"
    assert expired["claims"]["phone"] == "9876543210"
    assert world.admin("/api/v1/admin/blocks", {"sid": session}).status_code == 201
    blocked = world.admin(path, {"token": token}).json()
    assert (blocked["verified"], blocked["refusal"]["code"]) == (False, "session_blocked")
    assert world.post(path, {"token": token}, token).status_code == 401
    assert world.post(path, {"token": token}, world.demo.token("alice")).status_code == 403
    in_url = httpx.get(f"{world.demo.http}{path}?token={token}")
    assert in_url.status_code in (401, 405)


def test_nothing_secret_is_in_the_log(tmp_path: Path) -> None:
    arguments = ("--data", str(tmp_path), "--log-level", "debug")
    with demo(*arguments, TRIOSERVER_SECRET=SECRET) as running:
        world = World(running, tmp_path)
        session, token = world.login()
        world.post("/api/v1/mpin-login", world.mpin | {"mpin": "654321"})
        with running.open(at(session, token)) as talk:
            enter(talk)
            talk.request("behavior", id=1, event_type="key_press", data={"key": "a private matter"})
            talk.request("behavior", id=2, event_type="a private matter")
        world.refused(session, token=with_claims(token, phone="1111111111"))
        world.admin("/api/v1/admin/inspect-token", {"token": token})
        log = running.log_until("session_mismatch")
    assert "session_mismatch" in log
    assert "authentication_failed" in log
    for secret in (token, token.split(".")[1], "123456", "654321", "9876543210", "1111111111"):
        assert secret not in log
    assert "a private matter" not in log
    assert SECRET not in log
