"""Guessing at the login form and at the MPIN is in the audit, where an operator sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import eventually
from tests.support.http import Answer, Site, site
from trioserver import Application, AuditConfig, AuditQuery, Config
from trioserver.auth import make_secret
from trioserver.examples import accounts, behavior_log
from trioserver.examples.accounts import Account
from trioserver.telemetry.audit import AuditEntry

PHONE = {"phone": "9876543210", "mpin": "123456", "device_id": "device001"}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accounts.COST, "n", 16)


def make(tmp_path: Path) -> tuple[Application, Config]:
    url = f"sqlite:///{tmp_path / 'systems.db'}"
    options: dict[str, Any] = {"secret": make_secret(), "token_lifetime": 1800.0}
    application = Application()
    application.include(accounts.make(url, users={"admin": Account("battery")}, **options))
    phones = {PHONE["phone"]: ("user001", PHONE["mpin"])}
    application.include(behavior_log.make(url, users=phones, **options))
    audit = AuditConfig(database=f"sqlite:///{tmp_path / 'audit.db'}", flush_interval=0.01)
    return application, Config(port=0, audit=audit)


async def post(place: Site, path: str, **body: str) -> Answer:
    headers = {"Content-Type": "application/json"}
    http = await place.open()
    return await http.request("POST", path, headers=headers, body=json.dumps(body).encode())


async def recorded(place: Site, count: int) -> list[AuditEntry]:
    """Oldest first."""
    audit = place.server.audit
    assert audit is not None
    await eventually(lambda: audit.statistics().written == count)
    return [*reversed((await audit.query(AuditQuery())).entries)]


def shown(entry: AuditEntry) -> tuple[str | None, str | None, str | None]:
    return entry.method, entry.code, entry.user


async def test_passwords_are_recorded_good_or_bad_and_no_name_that_nobody_has(
    tmp_path: Path,
) -> None:
    async with site(*make(tmp_path)) as place:
        await post(place, "/api/v1/login", username="admin", password="guess")
        await post(place, "/api/v1/login", username="my password?", password="guess")
        await post(place, "/api/v1/login", username="admin", password="battery")
        rows = await recorded(place, 3)
    assert [shown(row) for row in rows] == [
        ("password", "login_failed", "admin"),
        ("password", "login_failed", None),
        ("password", None, "admin"),
    ]
    assert {(row.address, row.route) for row in rows} == {("127.0.0.1", "/api/v1/login")}
    assert "guess" not in f"{rows}"


async def test_guesses_that_are_too_many_are_recorded_as_such(tmp_path: Path) -> None:
    async with site(*make(tmp_path)) as place:
        for _ in range(accounts.ATTEMPTS + 1):
            await post(place, "/api/v1/login", username="admin", password="guess")
        rows = await recorded(place, accounts.ATTEMPTS + 1)
    assert [row.code for row in rows] == ["login_failed"] * accounts.ATTEMPTS + ["rate_limited"]


async def test_mpins_are_recorded_good_or_bad(tmp_path: Path) -> None:
    async with site(*make(tmp_path)) as place:
        await post(place, "/api/v1/mpin-login", **{**PHONE, "mpin": "9999"})
        await post(place, "/api/v1/mpin-login", **{**PHONE, "phone": "5554443332"})
        good = (await post(place, "/api/v1/mpin-login", **PHONE)).json
        await post(place, "/api/v1/verify-mpin", **PHONE, session_id=good["session_id"])
        await post(place, "/api/v1/verify-mpin", **PHONE, session_id="another")
        rows = await recorded(place, 5)
    assert [shown(row) for row in rows] == [
        ("mpin", "mpin_invalid", "user001"),
        ("mpin", "mpin_invalid", None),
        ("mpin", None, "user001"),
        ("mpin", None, "user001"),
        ("mpin", "mpin_invalid", "user001"),
    ]
