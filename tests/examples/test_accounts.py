"""Logging in: what is answered, how it is limited, how passwords are kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
import trio
from trio.testing import MockClock

from tests.support.http import Answer, Site, site
from trioserver.auth import make_secret
from trioserver.examples import accounts
from trioserver.examples.accounts import Account, Attempts, Busy, Passwords

SECRET = make_secret()
USERS = {"alice": Account("correct horse"), "admin": Account("battery", {"role": "admin"})}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored says what it cost, so that a test may pay less."""
    monkeypatch.setitem(accounts.COST, "n", 16)


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    application = accounts.make(url, secret=SECRET, token_lifetime=1800.0, users=USERS)
    async with site(application) as place:
        yield place


async def post(place: Site, body: Any) -> Answer:
    http = await place.open()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    return await http.request("POST", "/api/v1/login", headers=headers, body=data)


def login(user: str, password: str) -> dict[str, str]:
    return {"username": user, "password": password}


async def test_a_token_of_the_user_with_the_claims(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        answer = await post(place, login("admin", "battery"))
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["expires_in"] == 1800
    claims = jwt.decode(answer.json["token"], SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["role"]) == ("admin", "admin")
    assert claims["exp"] - claims["iat"] in (1800, 1801)


async def test_a_wrong_password_and_nobody_are_answered_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        wrong = await post(place, login("alice", "battery"))
        nobody = await post(place, login("mallory", "battery"))
    assert wrong.status == nobody.status == 401
    assert wrong.body == nobody.body
    assert wrong.json["error"]["code"] == "login_failed"
    assert "www-authenticate" in wrong.headers


async def test_both_are_verified_at_the_same_cost() -> None:
    passwords = Passwords()
    stored = await passwords.hash("x")
    assert passwords._nobody.split("$")[:4] == stored.split("$")[:4]
    assert not await passwords.verify("x", None)
    assert await passwords.verify("x", stored)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"\xff",
        {"username": "alice"},
        {"username": "alice", "password": ""},
        {"username": "alice", "password": ["x"]},
        {"username": "a" * 65, "password": "x"},
        {"username": "alice", "password": "x" * 257},
    ],
)
async def test_what_is_no_login_is_refused(body: Any, tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        answer = await post(place, body)
        assert answer.status == 400
        assert answer.json["error"]["code"] == "invalid_payload"


async def test_what_is_too_long_or_no_json_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        assert (await post(place, login("alice", "y" * accounts.MAX_BODY))).status == 413
        http = await place.open()
        body = b"username=alice&password=x"  # as a form of another site would send it
        assert (await http.request("POST", "/api/v1/login", body=body)).status == 415
        http = await place.open()
        assert (await http.get("/api/v1/login")).status == 405


async def test_guessing_is_stopped_and_the_right_one_does_not_count(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        for _ in range(accounts.ATTEMPTS + 3):
            assert (await post(place, login("admin", "battery"))).status == 200
        for _ in range(accounts.ATTEMPTS):
            assert (await post(place, login("alice", "wrong"))).status == 401
        answer = await post(place, login("alice", "correct horse"))
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= accounts.REFILL
        assert answer.json["error"]["code"] == "rate_limited"


def test_attempts_come_back_with_time_and_are_counted_apart() -> None:
    now = 0.0
    attempts = Attempts(at_once=2, refill=6.0, clock=lambda: now)
    assert attempts.begin("address 1", "user a") == 0.0
    assert attempts.begin("address 1", "user b") == 0.0
    assert attempts.begin("address 1", "user c") == 6.0
    assert attempts.begin("address 2", "user c") == 0.0
    assert attempts.begin("address 2", "user a") == 0.0
    assert attempts.begin("address 3", "user a") == 6.0  # whatever the address
    now = 6.0
    assert attempts.begin("address 1", "user d") == 0.0
    attempts.succeeded("address 1", "user d")
    assert attempts.begin("address 1", "user d") == 0.0


def test_attempts_are_counted_for_so_many_and_no_more() -> None:
    attempts = Attempts(clock=lambda: 0.0)
    for number in range(accounts.REMEMBERED + 100):
        attempts.begin(f"user {number}")
    assert len(attempts._buckets) == accounts.REMEMBERED


async def test_who_would_wait_too_long_is_told_so(autojump_clock: MockClock) -> None:
    passwords = Passwords(at_once=1, waiting=1)
    stored = accounts.hash_password("x")
    with trio.CancelScope() as scope:
        await passwords._threads.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(passwords.verify, "x", stored)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Busy):
                await passwords.verify("x", stored)
            scope.cancel()


async def test_passwords_are_in_no_file_and_no_repr(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        assert (await post(place, login("alice", "correct horse"))).status == 200
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'accounts.db'}")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(accounts.accounts)).all()
    engine.dispose()
    assert {row.user_id for row in rows} == set(USERS)
    assert all(row.password.startswith("scrypt$16$8$5$") for row in rows)
    assert b"correct horse" not in (tmp_path / "accounts.db").read_bytes()
    assert "correct horse" not in repr(USERS)
    assert "x" not in repr(accounts.Login("alice", "x"))


def test_the_real_cost_is_what_is_advised() -> None:
    """OWASP: N=2^14, r=8, p=5. The fixture makes N smaller for the other tests only."""
    source = Path(accounts.__file__).read_text()
    assert 'COST: Final = {"n": 2**14, "r": 8, "p": 5}' in source
