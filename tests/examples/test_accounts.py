"""Logging in: what is answered, how it is limited, how passwords are kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
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
from trioserver.examples.accounts import Account, Busy, Passwords
from trioserver.examples.attempts import REMEMBERED, Attempts, Devices, Tries, Try

SECRET = make_secret()
USERS = {"alice": Account("correct horse"), "admin": Account("battery", {"role": "admin"})}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored says what it cost, so that a test may pay less."""
    monkeypatch.setitem(accounts.COST, "n", 16)
    # A busy machine may take minutes for a test, and no attempt is to come back meanwhile.
    monkeypatch.setattr(accounts, "REFILL", 3600.0)
    monkeypatch.setattr(accounts, "BOTH_REFILL", 3600.0)


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    application = accounts.make(url, secret=SECRET, token_lifetime=1800.0, users=USERS)
    async with site(application) as place:
        yield place


async def post(place: Site, body: Any, cookie: str | None = None) -> Answer:
    http = await place.open()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if cookie is not None:
        headers["Cookie"] = cookie
    return await http.request("POST", "/api/v1/login", headers=headers, body=data)


def login(user: str, password: str) -> dict[str, str]:
    return {"username": user, "password": password}


async def test_a_token_of_the_user_with_the_claims(tmp_path: Path) -> None:
    async with running(tmp_path) as place:
        answer = await post(place, login("admin", "battery"))
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["expires_in"] == 1800
    algorithms, audience = ["HS256"], "conversations"
    claims = jwt.decode(answer.json["token"], SECRET, algorithms, audience=audience)
    assert set(claims["aud"]) == {"admin-dashboard", "conversations", "agents", "study-coach"}
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
        assert 1 <= int(answer.headers["retry-after"]) <= accounts.BOTH_REFILL
        assert answer.json["error"]["code"] == "rate_limited"


async def test_a_guesser_does_not_lock_out_a_device_on_which_the_user_has_logged_in(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as place:
        first = await post(place, login("alice", "correct horse"))
        cookie = first.headers["set-cookie"].partition(";")[0]
        for _ in range(accounts.ATTEMPTS):
            assert (await post(place, login("alice", "wrong"))).status == 401
        for _ in range(5):  # the guesser is behind the same address, and goes on
            assert (await post(place, login("alice", "correct horse"))).status == 429
            again = await post(place, login("alice", "correct horse"), cookie)
            assert again.status == 200
        device = cookie.partition("=")[2].partition(".")[0]
        assert again.headers["set-cookie"].partition("=")[2].startswith(device)
        stolen = await post(place, login("admin", "battery"), cookie)
        assert stolen.status == 429, "a device is known for its own user only"
        for _ in range(accounts.ATTEMPTS):
            assert (await post(place, login("alice", "wrong"), cookie)).status == 401
        assert (await post(place, login("alice", "correct horse"), cookie)).status == 429


async def test_the_cookie_of_a_device_is_seen_by_no_script_and_sent_nowhere_else(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as place:
        wrong = await post(place, login("alice", "wrong"))
        right = await post(place, login("alice", "correct horse"))
    assert "set-cookie" not in wrong.headers
    name, *parts = right.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "Path=/api/v1/login", "SameSite=strict"} <= set(parts)
    assert "alice" not in name


def test_a_token_of_a_device_is_good_for_its_name_its_login_and_its_time() -> None:
    now = 1e9
    devices = Devices(SECRET, path="/a", clock=lambda: now)
    token = devices.token("alice", None)
    device = devices.known("alice", token)
    assert device is not None
    assert devices.known("alice", devices.token("alice", device)) == device
    for name, shown in (
        ("bob", token),
        ("alice", None),
        ("alice", ""),
        ("alice", "a.b.c"),
        ("alice", ".."),
        ("alice", token[:-1]),
        ("alice", token + "x"),
        ("alice", token.replace(".", ".9", 1)),
        ("alice", "é\ud800" + token),
        ("\ud800", token),
    ):
        assert devices.known(name, shown) is None
    assert Devices(SECRET, path="/b").known("alice", token) is None
    assert Devices(make_secret(), path="/a").known("alice", token) is None
    now += 181 * 86400
    assert devices.known("alice", token) is None


def tries_by(clock: Any) -> Tries:
    return Tries(
        by_name=Attempts(at_once=4, refill=6.0, clock=clock),
        by_address=Attempts(at_once=6, refill=1.0, clock=clock),
        by_both=Attempts(at_once=2, refill=18.0, clock=clock),
        by_device=Attempts(at_once=2, refill=6.0, clock=clock),
    )


def test_a_try_that_has_to_wait_is_charged_to_nobody() -> None:
    tries = tries_by(lambda: 0.0)
    assert [tries.begin(Try("a", "1")) for _ in range(2)] == [0.0, 0.0]
    assert tries.begin(Try("a", "1")) == 18.0
    for _ in range(50):  # an app that tries again and again
        assert tries.begin(Try("a", "1")) > 0
    assert [tries.begin(Try("b", "1")) for _ in range(2)] == [0.0, 0.0], "who is behind it gets in"
    assert [tries.begin(Try("a", "2")) for _ in range(2)] == [0.0, 0.0]
    for _ in range(50):
        assert tries.begin(Try("a", "3")) == 6.0, "now the name is used up"
    assert [tries.begin(Try(name, "3")) for name in "cccddd"] == [0.0, 0.0, 18.0, 0.0, 0.0, 18.0]


def test_who_guesses_from_one_address_for_ever_does_not_lock_out_the_owner_at_another() -> None:
    now, waited = 0.0, 0
    tries = tries_by(lambda: now)
    for second in range(10_000):
        now = float(second)
        tries.begin(Try("a", "guesser"))
        if second % 20 == 19:  # and mistypes each time
            waited += tries.begin(Try("a", "owner")) > 0
    assert waited == 0


def test_what_was_right_does_not_count_and_time_brings_attempts_back() -> None:
    now = 0.0
    attempts = Attempts(at_once=1, refill=6.0, clock=lambda: now)
    assert attempts.begin("a") == 0.0
    assert attempts.begin("a") == 6.0
    assert attempts.begin("b") == 0.0
    attempts.give_back("b")
    assert attempts.begin("b") == 0.0
    now = 6.0
    assert attempts.begin("a") == 0.0


def test_attempts_are_counted_for_so_many_and_no_more() -> None:
    attempts = Attempts(at_once=1, refill=6.0, clock=lambda: 0.0)
    for number in range(REMEMBERED + 100):
        attempts.begin(f"user {number}")
    assert len(attempts._buckets) == REMEMBERED


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
            nursery.start_soon(partial(passwords.verify, "x", stored, known=True))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Busy):
                await passwords.verify("x", stored, known=True)
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
