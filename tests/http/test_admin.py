"""The administration over HTTP: who gets in, what they see, what they do, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import Harness, World, serving, wall_clock
from tests.support.databases import eventually
from tests.support.postgresql import PostgreSQL
from trioserver import (
    AdminAction,
    AdminConfig,
    AuditConfig,
    AuthAttempt,
    Config,
    Credentials,
    JWTAuth,
    Observer,
    Request,
    User,
)
from trioserver.auth import make_secret, make_token
from trioserver.http.admin import admin_app

SECRET = make_secret()
PREFIX = "http://server"


def token(
    user: str = "root", *, lifetime: float = 3600, secret: str = SECRET, **claims: Any
) -> str:
    return make_token(
        secret, subject=user, lifetime=lifetime, claims={"role": "admin"} | claims, clock=wall_clock
    )


class RecordedActions(Observer):
    def __init__(self) -> None:
        self.actions: list[AdminAction] = []

        self.attempts: list[AuthAttempt] = []

    def on_admin_action(self, action: AdminAction) -> None:
        self.actions.append(action)

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        self.attempts.append(attempt)


@attrs.frozen
class Admin:
    """The administration, with a client that has a token."""

    harness: Harness
    http: httpx.AsyncClient
    actions: list[AdminAction]
    attempts: list[AuthAttempt]
    app: Any

    async def get(self, path: str, status: int = 200, **parameters: Any) -> Any:
        answer = await self.http.get(path, params=parameters)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


@asynccontextmanager
async def administration(
    config: Config | None = None, *, auth: Any = None, world: World | None = None, **claims: Any
) -> AsyncIterator[Admin]:
    recorded = RecordedActions()
    jwt = JWTAuth(secret=SECRET, clock=wall_clock)
    async with serving(config, observers=[recorded], world=world) as harness:
        app = admin_app(harness.server, auth=auth or jwt)
        transport = httpx.ASGITransport(app, client=("203.0.113.7", 4711))
        headers = {"Authorization": f"Bearer {token(**claims)}"}
        async with httpx.AsyncClient(
            transport=transport, base_url=PREFIX, headers=headers
        ) as client:
            yield Admin(harness, client, recorded.actions, recorded.attempts, app)


# ---------------------------------------------------------------------------- who gets in


@pytest.mark.parametrize(
    ("header", "status", "code", "challenge"),
    [
        (None, 401, "token_missing", 'Bearer realm="administration"'),
        ("Bearer ", 401, "token_missing", 'Bearer realm="administration"'),
        ("Basic cm9vdDpyb290", 401, "token_missing", 'Bearer realm="administration"'),
        ("Bearer a b", 401, "token_invalid", 'error="invalid_token"'),
        ("Bearer nonsense", 401, "token_invalid", 'error="invalid_token"'),
        ({"lifetime": -100}, 401, "token_expired", 'error="invalid_token"'),
        ({"secret": make_secret()}, 401, "token_invalid", 'error="invalid_token"'),
        ({"role": "user"}, 403, "forbidden", 'error="insufficient_scope"'),
        ({"role": None}, 403, "forbidden", 'error="insufficient_scope"'),
        ({"role": ["a", 1]}, 403, "forbidden", 'error="insufficient_scope"'),
        ({"role": {"admin": 1}}, 403, "forbidden", 'error="insufficient_scope"'),
    ],
)
async def test_who_is_not_an_administrator_is_told_why_and_gets_nothing(
    header: str | dict[str, Any] | None,
    status: int,
    code: str,
    challenge: str,
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as logs:
        async with administration() as admin:
            del admin.http.headers["Authorization"]
            if isinstance(header, dict):
                header = f"Bearer {token(**header)}"
            headers = {} if header is None else {"Authorization": header}
            for path in ("/statistics", "/no-such-path"):
                answer = await admin.http.get(path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
                assert challenge in answer.headers["WWW-Authenticate"]
                assert answer.headers["Cache-Control"] == "no-store"
            assert [attempt.code for attempt in admin.attempts] == [code, code]
            assert admin.attempts[0].remote == "203.0.113.7:4711"
            assert not admin.actions
    secret = str(header or "").rpartition(" ")[2]
    if len(secret) > 10:
        assert secret not in f"{logs} {answer.text} {answer.headers} {admin.attempts}"


async def test_a_role_may_be_one_of_a_list_in_a_claim_of_another_name(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, admin=AdminConfig(role_claim="groups", role="ops"))
    async with administration(config, groups=["dev", "ops"]) as admin:
        await admin.get("/statistics")
    async with administration(config) as admin:
        await admin.get("/statistics", 403)


async def test_another_role_counts_as_soon_as_it_is_configured(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        await admin.get("/statistics")
        server = admin.harness.server
        role = AdminConfig(role="operator")
        outcome = await server.reconfigure(attrs.evolve(server.config, admin=role))
        assert outcome.changed == {"admin.role": "admin -> operator"}
        await admin.get("/statistics", 403)


async def test_a_token_in_the_url_counts_for_nothing(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        del admin.http.headers["Authorization"]
        for name in ("token", "access_token"):
            answer = await admin.http.get("/statistics", params={name: token()})
            assert answer.status_code == 401


async def test_two_headers_are_none(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        twice = [("Authorization", f"Bearer {token()}"), ("Authorization", f"Bearer {token()}")]
        answer = await admin.http.get("/statistics", headers=twice)
        assert answer.status_code == 401


async def test_a_blocked_administrator_is_none(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        await admin.harness.server.block(user="root")
        assert (await admin.get("/statistics", 403))["error"]["code"] == "session_blocked"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("secret detail"), 500, "internal_error"), (None, 503, "unavailable")],
)
async def test_an_authenticator_that_fails_or_hangs_lets_nobody_in(
    error: Exception | None, status: int, code: str, autojump_clock: MockClock
) -> None:
    async def auth(credentials: Credentials, request: Request) -> User:
        assert str(credentials.token) not in str(request.headers)
        if error is None:
            await trio.sleep_forever()
        assert error is not None
        raise error

    async with administration(auth=auth) as admin:
        answer = await admin.get("/statistics", status)
        assert answer["error"]["code"] == code
        assert "secret" not in str(answer)


async def test_without_an_authenticator_nobody_gets_in(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        admin.harness.server.application.auth = None
        transport = httpx.ASGITransport(admin_app(admin.harness.server))
        async with httpx.AsyncClient(transport=transport, base_url=PREFIX) as client:
            headers = {"Authorization": f"Bearer {token()}"}
            assert (await client.get("/statistics", headers=headers)).status_code == 503


# ---------------------------------------------------------------------------- looking


async def test_a_connection_can_be_seen_without_what_it_says(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        alice = await admin.harness.ready()
        await alice.request("echo", {"text": "private words"})
        await alice.send(type="made-up-by-the-peer", id=2)
        await alice.receive()
        await alice.send(type="forever", id=3)
        await alice.receive_until("chunk")
        await trio.sleep(5)
        (listed,) = (await admin.get("/connections"))["connections"]
        seen = await admin.get(f"/connections/{listed['id']}")
        assert seen["phase"] == "ready"
        assert (seen["user"], seen["token_id"]) == ("alice", "token-alice")
        assert (seen["route"], seen["resource"]) == ("/ws/{id}", {"id": "1"})
        assert seen["age_ms"] >= 5000
        assert seen["in_flight"] == 1
        assert seen["recent_messages"] == ["echo", "forever"]
        names = [task["name"] for task in seen["tasks"]]
        assert any(name.endswith("Streams._run") for name in names)
        assert "tasks" not in listed
        assert "private words" not in json.dumps(seen)
        assert "made-up-by-the-peer" not in json.dumps(seen)
        await alice.close()
        await trio.sleep(1)
        await admin.get(f"/connections/{listed['id']}", 404)
        await admin.harness.assert_nothing_left()


async def test_connections_are_filtered_and_paged(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        clients = [await admin.harness.ready() for _ in range(5)]
        clients += [await admin.harness.ready("/ws/2", "bob"), await admin.harness.connect()]

        async def count(**parameters: Any) -> int:
            return len((await admin.get("/connections", **parameters))["connections"])

        assert await count() == 7
        assert await count(user="alice") == 5
        assert await count(user="alice", resource="id:2") == 0
        assert await count(resource="id:2") == 1
        assert await count(phase="awaiting_auth") == 1
        refused = await admin.get("/connections", 400, phase="head")
        assert refused["error"]["code"] == "invalid_payload"
        assert await count(token_id="token-bob") == 1
        assert await count(route="/ws/{id}") == 7
        assert await count(address="198.51.100.1") == 0
        ids, after = [], None
        while True:
            parameters = {"limit": 3} if after is None else {"limit": 3, "after": after}
            page = await admin.get("/connections", **parameters)
            ids += [connection["id"] for connection in page["connections"]]
            after = page["next"]
            if after is None:
                break
        assert len(ids) == len(set(ids)) == 7


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/connections", {"limit": 0}),
        ("/connections", {"limit": 1001}),
        ("/connections", {"limit": "x"}),
        ("/connections", {"usr": "alice"}),
        ("/connections", {"user": ["alice", "bob"]}),
        ("/connections", {"resource": "id"}),
        ("/connections", {"user": "x" * 300}),
        ("/connections", {"user": "a\0b"}),
        ("/connections", {"user": ""}),
        ("/audit", {"since": "yesterday"}),
        ("/audit", {"outcome": "perhaps"}),
        ("/audit", {"before": 0}),
        ("/audit", {"before": 2**63}),
        ("/statistics", {"x": 1}),
    ],
)
async def test_parameters_that_do_not_fit_are_refused(
    path: str, parameters: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with administration() as admin:
        assert (await admin.get(path, 400, **parameters))["error"]["code"] == "invalid_payload"


async def test_statistics_are_those_of_the_server(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        alice = await admin.harness.ready()
        shown = await admin.get("/statistics")
        assert (shown["open"], shown["ready"], shown["draining"]) == (1, 1, False)
        assert shown["audit"] is None
        await alice.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/connections/", 404, None),
        ("DELETE", "/connections", 405, {"GET", "HEAD"}),
        ("PUT", "/blocks", 405, {"GET", "HEAD", "POST"}),
        ("GET", "/drain", 405, {"POST"}),
    ],
)
async def test_other_paths_and_methods(
    method: str, path: str, status: int, allow: set[str] | None, autojump_clock: MockClock
) -> None:
    async with administration() as admin:
        answer = await admin.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed")
        if allow is not None:
            assert set(answer.headers["Allow"].split(", ")) == allow


# ---------------------------------------------------------------------------- acting


@pytest.mark.parametrize(
    "target",
    [{"user": "alice"}, {"token_id": "token-alice"}, {"resource": {"id": "1"}}, {"connection": ""}],
)
async def test_connections_are_closed_by_whatever_they_are_known_by(
    target: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with administration() as admin:
        bob = await admin.harness.ready("/ws/2", "bob")
        alice = await admin.harness.ready()
        if "connection" in target:
            found = await admin.get("/connections", user="alice")
            target["connection"] = found["connections"][0]["id"]
        answer = await admin.post("/disconnect", **target, message="Maintenance.")
        assert answer == {"disconnected": 1}
        messages, closed = await alice.receive_end()
        assert (closed.code, closed.reason) == (4001, "disconnected")
        assert messages[-1]["message"] == "Maintenance."
        (action,) = admin.actions
        assert (action.actor, action.name, action.affected, action.code) == (
            "root",
            "disconnect",
            1,
            None,
        )
        assert (action.path, action.remote) == ("/disconnect", "203.0.113.7:4711")
        assert (await bob.request("note"))["type"] == "ack"
        await bob.close()


async def test_blocks_are_made_listed_and_lifted(autojump_clock: MockClock) -> None:
    async with administration() as admin:
        alice = await admin.harness.ready()
        made = await admin.post("/blocks", 201, user="alice", for_ms=60_000, reason="spam")
        assert made["disconnected"] == 1
        assert (await alice.receive_end())[1].reason == "session_blocked"
        await trio.sleep(1)
        await admin.post("/blocks", 201, resource={"id": "2"})
        block, other = (await admin.get("/blocks"))["blocks"]
        assert block == made["block"]
        assert (block["user"], block["reason"], block["actor"]) == ("alice", "spam", "root")
        assert block["stored"] is False
        assert other["resource"] == {"id": "2"}
        page = await admin.get("/blocks", limit=1)
        assert page["next"] == block["id"]
        rest = await admin.get("/blocks", limit=1, after=block["id"])
        assert ([b["id"] for b in rest["blocks"]], rest["next"]) == ([other["id"]], None)
        assert await admin.post("/unblock", id=block["id"]) == {"unblocked": 1}
        assert await admin.post("/unblock", id=block["id"]) == {"unblocked": 0}
        assert await admin.post("/unblock", resource={"id": "2"}) == {"unblocked": 1}
        assert [action.name for action in admin.actions] == ["block", "block", *["unblock"] * 3]
        assert admin.actions[1].target["resource.id"] == "2"


async def test_draining_is_answered_and_begun(autojump_clock: MockClock) -> None:
    async with administration(Config(port=0)) as admin:
        alice = await admin.harness.ready()
        assert await admin.post("/drain", 202, reason="restart") == {"draining": True}
        assert (await alice.receive_until("goaway"))["reason"] == "restart"
        assert (await alice.receive_end())[1].code == 1012


async def test_a_token_is_looked_into_without_being_trusted(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with administration() as admin:
            expired = token("mallory", lifetime=-3600)
            seen = await admin.post("/inspect-token", token=expired)
            assert seen["verified"] is False
            assert seen["refusal"]["code"] == "token_expired"
            assert seen["claims"]["sub"] == "mallory"
            assert seen["expires_in_ms"] < 0
            assert (await admin.post("/inspect-token", token=token("eve")))["verified"] is True
            nonsense = await admin.post("/inspect-token", token="nonsense")
            assert (nonsense["header"], nonsense["refusal"]["code"]) == (None, "token_invalid")
            assert expired not in f"{admin.actions} {logs} {seen}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/disconnect", {}),
        ("/disconnect", {"user": "alice", "usr": "x"}),
        ("/disconnect", {"user": 5}),
        ("/disconnect", {"resource": {}}),
        ("/disconnect", []),
        ("/blocks", {}),
        ("/blocks", {"reason": "nobody"}),
        ("/blocks", {"user": "alice", "until": "soon"}),
        ("/blocks", {"user": "alice", "until": "2001-01-01T00:00:00Z"}),
        ("/blocks", {"user": "alice", "for_ms": 0}),
        ("/blocks", {"user": "alice", "for_ms": 1, "until": "2100-01-01T00:00:00Z"}),
        ("/blocks", {"user": "a\nb"}),
        ("/unblock", {}),
        ("/drain", {"reason": "fun"}),
        ("/inspect-token", {"token": ""}),
    ],
)
async def test_a_body_that_does_not_fit_does_nothing(
    path: str, body: Any, autojump_clock: MockClock
) -> None:
    async with administration() as admin:
        answer = await admin.http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_payload")
        assert admin.actions == []
        assert admin.harness.server.blocked() == ()


async def test_a_body_that_is_no_json_too_large_or_too_slow(autojump_clock: MockClock) -> None:
    async with administration(Config(port=0, admin=AdminConfig(max_body_bytes=1024))) as admin:
        assert await post_pieces(admin, b'{"id": "x"') == 400
        assert await post_pieces(admin, b"\xff\xfe") == 400
        assert await post_pieces(admin, b"[" * 1000) == 400
        assert await post_pieces(admin, b'{"id": "x"}', media_type="text/plain") == 415
        assert await post_pieces(admin, b" " * 600, b" " * 600, b" " * 600) == 413
        assert await post_pieces(admin, b'{"id"', b': "x"}') == 200
        assert await post_pieces(admin, b"{", ends=False) == 408


async def post_pieces(
    admin: Admin, *pieces: bytes, media_type: str = "application/json", ends: bool = True
) -> int:
    """The status of a POST whose body comes in pieces; without an end, more never comes."""
    messages = [
        {"type": "http.request", "body": piece, "more_body": not ends or number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        return messages.pop(0) if messages else await trio.sleep_forever()

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    headers = {"content-type": media_type, "authorization": admin.http.headers["Authorization"]}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/unblock",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await admin.app(scope, receive, send)
    return int(sent[0]["status"])


# ---------------------------------------------------------------------------- with a database


async def test_acts_and_refusals_are_in_the_audit_that_it_shows(database_url: str) -> None:
    config = Config(port=0, audit=AuditConfig(database=database_url, flush_interval=0.01))
    async with administration(config) as admin:
        await admin.post("/blocks", 201, user="alice")
        await admin.http.get("/statistics", headers={"Authorization": "Bearer nonsense-nonsense"})
        audit = admin.harness.server.audit
        assert audit is not None
        await eventually(lambda: audit.statistics().written == 3)
        refused, block, accepted = (await admin.get("/audit"))["entries"]
        assert (accepted["method"], accepted["outcome"], accepted["user"]) == (
            "bearer",
            "accepted",
            "root",
        ), "once, however often it is used"
        assert (refused["outcome"], refused["code"]) == ("refused", "token_invalid")
        assert (refused["method"], refused["token"]) == ("bearer", "***")
        assert (block["action"], block["user"], block["affected"]) == ("block", "root", 0)
        assert block["target"]["user"] == "alice"
        assert block["address"] == "203.0.113.7"
        since = (await admin.get("/audit", user="root", since="2001-01-01T00:00:00Z"))["entries"]
        assert [entry["id"] for entry in since] == [block["id"], accepted["id"]]
        first = await admin.get("/audit", limit=1)
        rest = await admin.get("/audit", limit=1, before=first["next"])
        assert [entry["id"] for entry in rest["entries"]] == [block["id"]]
        stored = (await admin.get("/blocks"))["blocks"]
        assert [entry["stored"] for entry in stored] == [True]


async def test_a_database_that_is_away_is_said_and_a_block_holds_all_the_same(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    config = Config(port=0, audit=AuditConfig(database=postgresql_url, flush_interval=0.01))
    async with administration(config) as admin:
        kept = await admin.post("/blocks", 201, user="bob")
        with postgresql.down():
            made = await admin.post("/blocks", 202, user="alice")
            assert made["block"]["stored"] is False
            assert (await admin.get("/audit", 503))["error"]["code"] == "unavailable"
            await admin.post("/unblock", 503, id=kept["block"]["id"])
            assert len((await admin.get("/blocks"))["blocks"]) == 2
