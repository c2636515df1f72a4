"""What observers are told: each authentication and each end, once."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.support.app import serving
from tests.support.client import Rejected
from trioserver import Attempt, Connection, Observer, RefusedRequest
from trioserver.timings import Timings


class Notes(Observer):
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def request_refused(self, request: RefusedRequest) -> None:
        self.events.append(("refused", request.status, request.path))

    def attempted(self, connection: Connection, attempt: Attempt) -> None:
        self.events.append(("attempted", attempt.outcome, attempt.refresh))

    def became_ready(self, connection: Connection) -> None:
        self.events.append(("ready", connection.user.id))

    def closed(self, connection: Connection, code: int, reason: str, timings: Timings) -> None:
        self.events.append(("closed", code, reason))


async def test_a_good_life_is_told_from_its_first_token_to_its_end(
    autojump_clock: MockClock,
) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        client = await harness.ready()
        await client.send(type="auth", token="alice:100", id=1)
        await client.receive_until("auth_refreshed")
        client.vanish()
        await harness.assert_nothing_left()
    assert notes.events == [
        ("ready", "alice"),
        ("attempted", "ready", False),
        ("attempted", "refreshed", True),
        ("closed", 1006, "peer left"),
    ]


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [("/ws/1", "forged", "token_invalid"), ("/ws/2", "alice", "access_denied")],
)
async def test_a_refusal_is_told_with_its_code(
    path: str, token: str, code: str, autojump_clock: MockClock
) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        client = await harness.connect(path)
        await client.send(type="auth", token=token)
        await client.receive_end()
        await harness.assert_nothing_left()
    assert notes.events == [("attempted", code, False), ("closed", 1008, code)]


async def test_who_leaves_before_a_token_has_left(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        client = await harness.connect()
        client.vanish()
        await harness.assert_nothing_left()
    assert notes.events == [("attempted", "peer_left", False), ("closed", 1006, "peer left")]


async def test_a_request_for_nothing_is_told_with_its_path(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        with pytest.raises(Rejected):
            await harness.connect("/nowhere")
        await harness.assert_nothing_left()
    assert notes.events == [("refused", 404, "/nowhere")]
