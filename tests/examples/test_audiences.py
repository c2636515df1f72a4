"""One secret signs the tokens of all systems; each admits only those that are for it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.systems import Demo, demo
from trioserver.auth import make_secret, make_token
from trioserver.examples import audiences

SECRET = make_secret()

PATHS = {
    audiences.BEHAVIOR_LOG: "/api/v1/ws/behavior/{session}",
    audiences.ADMIN_DASHBOARD: "/admin/ws",
    audiences.CONVERSATIONS: "/ws/conversations/alice-1",
    audiences.AGENTS: "/ws",
    audiences.STUDY_COACH: "/api/chat/ws",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo(TRIOSERVER_SECRET=SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def session(running: Demo) -> dict[str, Any]:
    answer = httpx.post(running.http + "/api/v1/mpin-login", json=running.facts["mpin"], timeout=10)
    return dict(answer.json())


def token_for(audience: str | None) -> str:
    """Of alice, who may do everything everywhere, but for the audience."""
    claims = {"role": "admin", "phone": "9876543210", "sid": "s", "session_id": "s"}
    return make_token(SECRET, subject="alice", claims=claims, audience=audience)


def outcome(running: Demo, path: str, token: str) -> tuple[str, str]:
    with running.open(path.replace("{session}", uuid.uuid4().hex)) as talk:
        talk.send(type="auth", token=token)
        answer = talk.receive()
        return answer.get("code", answer["type"]), answer.get("message", "")


@pytest.mark.parametrize("system", PATHS)
def test_a_system_admits_tokens_that_are_for_it_and_no_others(system: str, running: Demo) -> None:
    for audience in (*PATHS, None):
        code, message = outcome(running, PATHS[system], token_for(audience))
        if audience == system:
            # Her token is good for the behaviour log; there is only no such session.
            assert code == ("session_not_found" if system == audiences.BEHAVIOR_LOG else "ready")
        else:
            assert code == "token_invalid"
            assert "aud" in message, "what is wrong with it"


def test_the_session_token_of_a_phone_opens_nothing_else(
    running: Demo, session: dict[str, Any]
) -> None:
    token = session["session_token"]
    for system, path in PATHS.items():
        if system != audiences.BEHAVIOR_LOG:
            assert outcome(running, path, token)[0] == "token_invalid"
    with running.open(f"/api/v1/ws/behavior/{session['session_id']}") as talk:
        talk.send(type="auth", token=token)
        assert talk.receive()["type"] == "ready"


@pytest.mark.parametrize(
    ("path", "system"),
    [
        ("/api/v1/auth/verify", audiences.ADMIN_DASHBOARD),
        ("/api/v1/dashboard/attempts", audiences.ADMIN_DASHBOARD),
        ("/api/v1/admin/statistics", audiences.ADMIN_DASHBOARD),
        ("/api/chat/texts", audiences.STUDY_COACH),
    ],
)
def test_the_same_holds_over_http(path: str, system: str, running: Demo) -> None:
    for audience in (*PATHS, None):
        headers = {"Authorization": f"Bearer {token_for(audience)}"}
        answer = httpx.get(running.http + path, headers=headers, timeout=10)
        assert answer.status_code == (200 if audience == system else 401), audience


def test_a_login_with_a_password_is_for_all_systems_that_have_pages(running: Demo) -> None:
    for system in audiences.PAGES:
        expected = "forbidden" if system == audiences.ADMIN_DASHBOARD else "ready"
        assert outcome(running, PATHS[system], running.token("alice"))[0] == expected
