"""System 2, the admin dashboard, as operators' browsers see it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.databases import sqlite
from tests.support.patience import PATIENCE
from tests.support.running import running as serving
from tests.support.systems import Demo, Talk, demo
from trioserver import Application, AuditConfig, Config, JWTAuth
from trioserver.auth import make_secret, make_token
from trioserver.examples import admin_dashboard, audiences

SECRET = make_secret()
FIGURES = [
    "connections",
    "unauthenticated",
    "ready",
    "users",
    "accepted",
    "refused",
    "messages_in",
    "messages_out",
    "uptime_s",
    "at",
]


AUTH = JWTAuth(secret=SECRET, audience=audiences.ADMIN_DASHBOARD)


def admin_token(user: str = "admin", **more: Any) -> str:
    audience = audiences.ADMIN_DASHBOARD
    return make_token(SECRET, subject=user, claims={"role": "admin"}, audience=audience, **more)


def user_token(user: str, **more: Any) -> str:
    """Of somebody who has logged in with a password."""
    return make_token(SECRET, subject=user, audience=audiences.PAGES, **more)


@attrs.frozen
class World:
    demo: Demo

    @contextmanager
    def dashboard(self, user: str = "admin", *, topics: list[str] | None = None) -> Iterator[Talk]:
        """A dashboard, after its greeting; subscribed, where there are topics."""
        with self.demo.open(f"/admin/ws?token={admin_token(user)}") as talk:
            talk.ready = talk.receive()
            assert talk.ready["type"] == "ready", talk.ready
            assert talk.receive()["type"] == "connection_established"
            if topics:
                talk.send(type="subscribe", id="s", events=topics)
                assert until(talk, "ack") == {"type": "ack", "id": "s"}
            yield talk

    @contextmanager
    def agents(self, user: str = "alice") -> Iterator[Talk]:
        with self.demo.open(f"/ws?token={user_token(user)}") as talk:
            talk.ready = talk.receive()
            assert talk.ready["type"] == "ready"
            yield talk

    def refused(self, **first: Any) -> tuple[str, int, str]:
        with self.demo.open("/admin/ws") as talk:
            talk.send(type="auth", **first)
            error, code, reason = talk.refused()
            assert isinstance(error["message"], str)
            return error["code"], code, reason

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.get(self.demo.http + path, headers=headers, timeout=PATIENCE)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with demo(TRIOSERVER_SECRET=SECRET, TRIOSERVER_AUDIT_FLUSH_INTERVAL="0.05") as running:
        yield World(running)


def until(talk: Talk, type: str, **fields: Any) -> dict[str, Any]:
    """The next message of a type, with these fields; what comes before it is dropped."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        message = talk.receive()
        if message["type"] == type and fields.items() <= message.items():
            return message
    raise AssertionError(f"no {type} has come")


def event(talk: Talk, topic: str) -> dict[str, Any]:
    data = until(talk, "event", topic=topic)["data"]
    assert isinstance(data, dict)
    return data


def request(talk: Talk, type: str, **data: Any) -> dict[str, Any]:
    """What a request is acknowledged with, whatever is pushed before it."""
    talk.send(type=type, id="q", **({"data": data} if data else {}))
    data = until(talk, "ack", id="q")["data"]
    assert isinstance(data, dict)
    return data


# ------------------------------------------------------------------------------ the shapes


@pytest.mark.parametrize("source", ["query", "message"])
def test_the_messages_are_what_deployed_dashboards_know(world: World, source: str) -> None:
    path = f"/admin/ws?token={admin_token()}" if source == "query" else "/admin/ws"
    with connect(world.demo.facts["ws"] + path) as connection:
        assert json.loads(connection.recv(timeout=PATIENCE))["type"] == "hello"
        if source == "message":
            connection.send(json.dumps({"type": "auth", "token": admin_token()}))
        assert json.loads(connection.recv(timeout=PATIENCE))["type"] == "ready"
        assert connection.recv(timeout=PATIENCE) == (
            '{"type":"connection_established","user":{"id":"admin","role":"admin"}}'
        )
        connection.send('{"type":"ping"}')
        pong = str(connection.recv(timeout=PATIENCE))
        assert re.fullmatch(r'\{"type":"pong","timestamp":"20[0-9T:.-]+Z"\}', pong)
        connection.send('{"type":"get_stats"}')
        update = str(connection.recv(timeout=PATIENCE))
        assert update.startswith('{"type":"stats_update","data":{"connections":')
        data = json.loads(update)["data"]
        assert list(data) == FIGURES
        assert data["ready"] >= 1
        assert data["users"] >= 1
        assert all(isinstance(data[name], int | float) for name in FIGURES if name != "refused")
        assert abs(data["at"] - time.time()) < PATIENCE
        connection.send('{"type":"no_such_thing"}')
        error = json.loads(connection.recv(timeout=PATIENCE))
        assert (error["type"], error["message"]) == ("error", "The message type is unknown.")


def test_who_subscribes_to_the_figures_gets_them_once_a_second_in_both_forms(world: World) -> None:
    with world.dashboard() as talk:
        connection = talk.connection
        connection.send('{"type":"subscribe","events":["stats"]}')
        pushed = [json.loads(connection.recv(timeout=PATIENCE)) for _ in range(4)]
        assert [each["type"] for each in pushed] == ["event", "stats_update"] * 2
        assert pushed[0]["topic"] == "stats"
        assert pushed[0]["data"] == pushed[1]["data"]
        assert 0.5 < pushed[2]["data"]["at"] - pushed[0]["data"]["at"] < PATIENCE


def test_a_request_with_an_id_is_answered_with_the_figures_too(world: World) -> None:
    with world.dashboard() as talk:
        talk.send(type="get_stats", id=1)
        update, ack = talk.receive(), talk.receive()
        assert (update["type"], ack["type"], ack["id"]) == ("stats_update", "ack", 1)
        assert update["data"] == ack["data"]


def test_figures_count_what_happens(world: World) -> None:
    with world.dashboard() as talk:
        before = talk_stats(talk)
        with world.agents("someone-new"):
            world.refused(token="forged")
            after = talk_stats(talk)
            while forged_in(after) == forged_in(before):  # counted when its connection has ended
                after = talk_stats(talk)
        assert forged_in(after) == forged_in(before) + 1
        assert after["ready"] == before["ready"] + 1
        assert after["users"] == before["users"] + 1
        assert after["accepted"] >= before["accepted"] + 2
        assert after["messages_in"] > before["messages_in"]
        assert after["messages_out"] > before["messages_out"]
        assert after["uptime_s"] > before["uptime_s"]


def forged_in(figures: dict[str, Any]) -> int:
    return int(figures["refused"].get("token_invalid", 0))


def talk_stats(talk: Talk) -> dict[str, Any]:
    talk.send(type="get_stats")
    data = until(talk, "stats_update")["data"]
    assert isinstance(data, dict)
    return data


def test_who_does_not_subscribe_is_sent_nothing_and_who_unsubscribes_no_more(world: World) -> None:
    with world.dashboard(topics=["stats"]) as one, world.dashboard() as other:
        until(one, "stats_update")
        assert other.request("list_dashboards")["type"] == "ack"  # nothing has come before it
        one.send(type="unsubscribe", id="u", events=["stats"])
        until(one, "ack")
        with world.dashboard(topics=["stats"]) as third:
            until(third, "stats_update")
        assert one.request("list_dashboards")["type"] == "ack"


# ------------------------------------------------------------------------------ who may come in


def test_only_administrators_get_in_and_each_reason_is_its_own(world: World) -> None:
    token = admin_token()
    assert [
        world.refused(),
        world.refused(token=token[:-4] + "AAAA"),
        world.refused(token=admin_token(lifetime=-3600)),
        world.refused(token=world.demo.token("alice")),
        world.refused(token=user_token("x", claims={"role": ["user", 1]})),
    ] == [
        ("token_missing", 1008, "token_missing"),
        ("token_invalid", 1008, "token_invalid"),
        ("token_expired", 1008, "token_expired"),
        ("forbidden", 1008, "forbidden"),
        ("forbidden", 1008, "forbidden"),
    ]


def test_other_topics_are_nobodys(world: World) -> None:
    with world.dashboard() as talk:
        for topic in ("secrets", "presence:/ws/rooms/1"):
            talk.send(type="subscribe", id=1, events=[topic])
            assert talk.receive()["code"] == "forbidden"
        talk.send(type="publish", id=2, topic="broadcast", data={"text": "forged"})
        assert talk.receive()["code"] == "forbidden"


async def test_origins_are_configured(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    page = "https://ops.example"
    app = admin_dashboard.make(url, auth=AUTH, origins=[page])
    async with serving(application=app) as server:

        def try_them() -> None:
            path = f"{server.addresses[0].url}/admin/ws?token={admin_token()}"
            with connect(path, origin=Origin(page)) as connection:
                assert '"hello"' in str(connection.recv(timeout=PATIENCE))
            with pytest.raises(InvalidStatus, match="403"):
                connect(path, origin=Origin("https://evil.example"))

        await trio.to_thread.run_sync(try_them)


# ------------------------------------------------------------------------------ attempts


def test_every_attempt_is_stored_and_listed_with_its_reason(world: World) -> None:
    forged = "forged-by-nobody-" + "x" * 40
    world.refused(token=forged)
    world.refused(token=world.demo.token("alice_expired"))
    world.refused(token=world.demo.token("alice"))
    with world.dashboard() as talk:
        wait_for_attempt(talk)
        listed = talk.request("list_attempts", limit=4)["data"]
    latest = listed["attempts"]
    assert [entry["code"] for entry in latest] == [
        None,
        "forbidden",
        "token_expired",
        "token_invalid",
    ]
    assert [entry["outcome"] for entry in latest] == ["accepted", "refused", "refused", "refused"]
    assert [entry["user"] for entry in latest] == ["admin", "alice", None, None]
    for entry in latest:
        assert (entry["kind"], entry["route"]) == ("attempt", "/admin/ws")
        assert entry["address"] == "127.0.0.1"
        assert re.fullmatch("sha256:[0-9a-f]{12}", entry["token"])
        assert entry["at"].endswith("Z")
        assert entry["duration_ms"] >= 0
    assert forged not in json.dumps(listed)
    assert listed["next"] == latest[-1]["id"]
    answer = world.get("/api/v1/dashboard/attempts?limit=2", admin_token())
    assert answer.json()["attempts"] == latest[:2]
    older = world.get(f"/api/v1/dashboard/attempts?limit=2&before={latest[1]['id']}", admin_token())
    assert older.json()["attempts"] == latest[2:]


def wait_for_attempt(talk: Talk) -> None:
    """Until that of this dashboard itself has been written."""
    deadline = time.monotonic() + PATIENCE
    mine = talk.ready["connection_id"]
    while time.monotonic() < deadline:
        listed = talk.request("list_attempts", limit=10)["data"]["attempts"]
        if any(entry["connection"] == mine for entry in listed):
            return
    raise AssertionError("it is not recorded")


def test_attempts_are_pushed_once_each_as_they_happen(world: World) -> None:
    with world.dashboard(topics=["attempts"]) as talk:
        world.refused(token="forged-once")
        world.refused(token=user_token("ivan"))
        pushed: list[dict[str, Any]] = []
        while not pushed or pushed[-1]["user"] != "ivan":
            pushed.append(event(talk, "attempts"))
        assert [entry["code"] for entry in pushed[-2:]] == ["token_invalid", "forbidden"]
        assert [entry["id"] for entry in pushed] == sorted({entry["id"] for entry in pushed})
        world.refused()
        assert event(talk, "attempts")["code"] == "token_missing"


@pytest.mark.parametrize(
    ("query", "token", "status"),
    [
        ("", None, 401),
        ("", "alice", 403),
        ("", "alice_expired", 401),
        ("?limit=0", "admin", 400),
        ("?limit=x", "admin", 400),
        ("?before=-1", "admin", 400),
        (f"?before={2**80}", "admin", 400),
        ("?limit=1000", "admin", 200),
    ],
)
def test_the_list_over_http_is_for_administrators(
    world: World, query: str, token: str | None, status: int
) -> None:
    bearer = None if token is None else world.demo.token(token)
    answer = world.get(f"/api/v1/dashboard/attempts{query}", bearer)
    assert answer.status_code == status
    assert status == 200 or set(answer.json()) == {"error"}


# ------------------------------------------------------------------------------ broadcasts


def test_twenty_dashboards_hear_a_broadcast_though_one_does_not_read_and_one_has_gone(
    world: World,
) -> None:
    with ExitStack() as stack:
        dashboards = [stack.enter_context(world.dashboard("admin")) for _ in range(20)]
        deaf = stack.enter_context(world.dashboard("admin", topics=["stats"]))
        gone = stack.enter_context(world.dashboard("admin"))
        gone.connection.socket.close()
        answer = request(dashboards[0], "broadcast", text="Maintenance at noon.")
        assert answer["dashboards"] >= 21
        for talk in dashboards[1:]:
            said = event(talk, "broadcast")
            assert (said["text"], said["from"]) == ("Maintenance at noon.", "admin")
        assert deaf.connection.protocol.state.name == "OPEN"


def test_a_broadcast_waits_for_administrators_who_are_away_and_comes_once(world: World) -> None:
    with world.dashboard("root"):
        pass  # has been here
    with world.dashboard("admin") as talk:
        while any(each["user"] == "root" for each in dashboards(talk)):
            pass
        said = request(talk, "broadcast", text="While you were out.")
        assert said["kept_for"] == 1
        with world.dashboard("root") as root:
            kept = until(root, "broadcast")
            assert kept["data"]["text"] == "While you were out."
        with world.dashboard("root") as root:
            assert root.request("list_dashboards")["type"] == "ack"  # nothing before it


def dashboards(talk: Talk) -> list[dict[str, Any]]:
    listed = request(talk, "list_dashboards")["dashboards"]
    assert isinstance(listed, list)
    return listed


def test_who_is_watching_is_known(world: World) -> None:
    with world.dashboard("admin", topics=["presence:/admin/ws"]) as talk:
        with world.dashboard("carol"), world.dashboard("carol"):
            assert event(talk, "presence:/admin/ws") == {"event": "join", "user": "carol"}
            present = {each["user"]: each["connections"] for each in dashboards(talk)}
            assert present == {"admin": 1, "carol": 2}
        assert event(talk, "presence:/admin/ws") == {"event": "leave", "user": "carol"}


# ------------------------------------------------------------------------------ acting


def test_connections_are_listed_page_by_page_and_pushed(world: World) -> None:
    with world.dashboard(topics=["connections"]) as talk:
        with world.agents("dora") as dora, world.agents("dora"):
            mine = dora.ready["connection_id"]
            opened: list[dict[str, Any]] = []
            while not any(each["id"] == mine for each in opened):
                opened += event(talk, "connections")["opened"]
            first = request(talk, "list_connections", user="dora", limit=1)
            second = request(talk, "list_connections", user="dora", limit=1, after=first["next"])
            (one,), (two,) = first["connections"], second["connections"]
            assert {one["user"], two["user"]} == {"dora"}
            assert mine in (one["id"], two["id"])
            assert (one["route"], one["phase"]) == ("/ws", "ready")
            assert one["age_ms"] >= 0
        closed: list[dict[str, Any]] = []
        while not any(each["id"] == mine for each in closed):
            closed += event(talk, "connections")["closed"]
        assert closed[0]["code"] == 1000


def test_a_connection_and_a_user_are_disconnected_with_the_reason(world: World) -> None:
    with world.dashboard() as talk, world.agents("erin") as one, world.agents("erin") as two:
        id = one.ready["connection_id"]
        assert request(talk, "disconnect", connection=id) == {"disconnected": 1}
        assert one.refused()[1:] == (4001, "disconnected")
        while len(request(talk, "list_connections", user="erin")["connections"]) > 1:
            pass  # its last words are on their way
        assert request(talk, "disconnect", user="erin") == {"disconnected": 1}
        assert two.refused()[1:] == (4001, "disconnected")
        assert request(talk, "disconnect", user="nobody") == {"disconnected": 0}


def test_a_user_is_blocked_and_let_in_again(world: World) -> None:
    with world.dashboard() as talk:
        with world.agents("frank") as frank:
            done = request(talk, "block", user="frank", reason="spam", for_ms=600_000)
            assert (done["disconnected"], done["stored"]) == (1, True)
            assert frank.refused()[1:] == (1008, "session_blocked")
        with world.demo.open(f"/ws?token={user_token('frank')}") as again:
            assert again.refused()[1:] == (1008, "session_blocked")
        assert request(talk, "unblock", user="frank") == {"unblocked": 1}
        with world.agents("frank"):
            pass
    actions = world.get("/api/v1/admin/audit?kind=admin_action&user=admin&limit=2", admin_token())
    assert actions.status_code == 200


def test_a_phones_session_is_blocked_from_the_dashboard(world: World) -> None:
    login = httpx.post(world.demo.http + "/api/v1/mpin-login", json=world.demo.facts["mpin"])
    session, token = login.json()["session_id"], login.json()["session_token"]
    with (
        world.dashboard() as talk,
        world.demo.open(f"/api/v1/ws/behavior/{session}?token={token}") as phone,
    ):
        assert phone.receive()["type"] == "ready"
        assert request(talk, "block", sid=session)["disconnected"] == 1
        assert phone.refused()[1:] == (1008, "session_blocked")


@pytest.mark.parametrize(
    ("type", "data", "code"),
    [
        ("disconnect", {}, "invalid_payload"),
        ("disconnect", {"user": "a", "connection": "b"}, "invalid_payload"),
        ("disconnect", {"usr": "alice"}, "invalid_payload"),
        ("block", {}, "invalid_payload"),
        ("block", {"user": "x", "sid": "y"}, "invalid_payload"),
        ("block", {"user": "x", "for_ms": 0}, "invalid_payload"),
        ("block", {"user": "\u200b"}, "invalid_payload"),
        ("block", {"user": "admin"}, "forbidden"),
        ("unblock", {"user": ""}, "invalid_payload"),
        ("broadcast", {"text": ""}, "invalid_payload"),
        ("broadcast", {"text": "x" * 2001}, "invalid_payload"),
        ("list_attempts", {"limit": 0}, "invalid_payload"),
        ("list_attempts", {"before": 0}, "invalid_payload"),
        ("list_connections", {"limit": 1001}, "invalid_payload"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_done(
    world: World, type: str, data: dict[str, Any], code: str
) -> None:
    with world.dashboard() as talk:
        talk.send(type=type, id=1, data=data)
        answer = talk.receive()
        assert (answer["type"], answer["code"], answer["fatal"]) == ("error", code, False)
        assert talk.request("list_dashboards")["type"] == "ack"


def test_every_act_is_in_the_audit_with_who_did_it(world: World) -> None:
    with world.dashboard("grace") as talk:
        request(talk, "disconnect", user="nobody-at-all")
        request(talk, "broadcast", text="a private matter")
        deadline = time.monotonic() + PATIENCE
        entries: list[dict[str, Any]] = []
        while len(entries) < 2 and time.monotonic() < deadline:
            path = "/api/v1/admin/audit?kind=admin_action&user=grace"
            entries = world.get(path, admin_token()).json()["entries"]
    assert [entry["action"] for entry in entries] == ["broadcast", "disconnect"]
    assert entries[1]["target"] == {"user": "nobody-at-all"}
    assert entries[1]["address"] == "127.0.0.1"
    assert "a private matter" not in json.dumps(entries)


# ------------------------------------------------------------------------------ verify


def test_a_bearer_token_is_verified(world: World) -> None:
    good = world.get("/api/v1/auth/verify", admin_token(lifetime=600))
    assert good.status_code == 200
    answer = good.json()
    assert (answer["valid"], answer["user"]["id"], answer["user"]["role"]) == (
        True,
        "admin",
        "admin",
    )
    assert 500 < answer["expires_in"] <= 600
    assert (
        world.get("/api/v1/auth/verify", world.demo.token("alice")).json()["user"]["role"] is None
    )
    for token, code in (
        (None, "token_missing"),
        ("nonsense", "token_invalid"),
        ("not a token", "token_invalid"),
        (admin_token(lifetime=-3600), "token_expired"),
    ):
        bad = world.get("/api/v1/auth/verify", token)
        assert bad.status_code == 401
        assert (bad.json()["valid"], bad.json()["error"]["code"]) == (False, code)
        assert bad.headers["www-authenticate"].startswith("Bearer ")
        assert bad.headers["cache-control"] == "no-store"


def test_the_token_of_a_blocked_user_is_not_good(world: World) -> None:
    with world.dashboard() as talk:
        request(talk, "block", user="henry")
    answer = world.get("/api/v1/auth/verify", user_token("henry"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "session_blocked")
    assert answer.json()["valid"] is False


# ------------------------------------------------------------------------------ when things fail


async def test_without_an_audit_the_rest_works(tmp_path: Path) -> None:
    app = admin_dashboard.make(f"sqlite:///{tmp_path / 'x.db'}", auth=AUTH)
    async with serving(application=app) as server:

        def try_it() -> None:
            path = f"{server.addresses[0].url}/admin/ws?token={admin_token()}"
            with connect(path) as connection:
                talk = Talk(connection)
                until(talk, "connection_established")
                assert talk.request("list_attempts")["code"] == "not_found"
                assert talk.request("list_connections")["type"] == "ack"
                talk.send(type="subscribe", id=1, events=["attempts", "stats"])
                until(talk, "ack")
                until(talk, "stats_update")

        await trio.to_thread.run_sync(try_it)


async def test_a_database_that_is_away_is_said_and_the_figures_go_on(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    app: Application = admin_dashboard.make(f"sqlite:///{path}", auth=AUTH)
    config = Config(port=0, audit=AuditConfig(database=str(tmp_path / "audit.db")))
    async with serving(config, app) as server:

        def try_it() -> None:
            with connect(f"{server.addresses[0].url}/admin/ws?token={admin_token()}") as connection:
                talk = Talk(connection)
                until(talk, "connection_established")
                while not rows(path):
                    pass  # that they were here is being stored
                with sqlite(path) as database:
                    database.execute("DROP TABLE dashboard_admins")
                assert request(talk, "list_connections")["connections"]
                answer = talk.request("broadcast", text="x")
                assert answer["code"] == "unavailable"
                talk.send(type="get_stats")
                until(talk, "stats_update")

        await trio.to_thread.run_sync(try_it)


def rows(path: Path) -> list[Any]:
    with sqlite(path) as database:
        return database.execute("SELECT user_id FROM dashboard_admins").fetchall()
