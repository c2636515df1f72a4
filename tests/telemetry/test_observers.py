"""What observers are told: each authentication and each end, once."""

from __future__ import annotations

import pytest
import trio.testing
from trio.testing import MockClock

from tests.support.app import serving
from tests.support.client import Rejected
from trioserver import (
    AddressBan,
    Application,
    AuthAttempt,
    Config,
    Connection,
    Credentials,
    Eviction,
    LimitsConfig,
    Observer,
    Rejection,
    Request,
    User,
)
from trioserver.telemetry.observer import Observers
from trioserver.telemetry.phases import PhaseTimes


class Notes(Observer):
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def on_request_rejected(self, rejection: Rejection) -> None:
        self.events.append(("rejected", rejection.status, rejection.path))

    def on_evicted(self, eviction: Eviction) -> None:
        self.events.append(("evicted", eviction.remote, eviction.cap))

    def on_address_banned(self, ban: AddressBan) -> None:
        self.events.append(("banned", ban.remote, ban.duration))

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        self.events.append(("auth", attempt.code, attempt.refresh))

    def on_ready(self, connection: Connection) -> None:
        self.events.append(("ready", connection.user.id))

    def on_closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        assert type(code) is int, "not an enum: a log line shows it by its name"
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
        ("auth", None, False),
        ("auth", None, True),
        ("closed", 1006, "client_disconnected"),
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
    assert notes.events == [("auth", code, False), ("closed", 1008, code)]


async def test_a_user_that_cannot_be_told_is_a_refusal_too(autojump_clock: MockClock) -> None:
    async def authenticate(credentials: Credentials, request: Request) -> User:
        return User(id="alice", public={"since": object()})

    notes, app = Notes(), Application(auth=authenticate)
    app.route("/ws")
    async with serving(app=app, observers=[notes]) as harness:
        client = await harness.connect("/ws")
        await client.send(type="auth", token="any")
        await client.receive_until("error")
        await trio.testing.wait_all_tasks_blocked()
        statistics = harness.server.statistics()
        assert (statistics.open, statistics.unauthenticated) == (1, 0), "it is only being closed"
        await client.receive_end()
        await harness.assert_nothing_left()
    code = "internal_error"
    assert notes.events == [("auth", code, False), ("closed", 1011, code)]


async def test_who_leaves_before_a_token_has_left(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        client = await harness.connect()
        client.vanish()
        await harness.assert_nothing_left()
    assert notes.events == [
        ("auth", "client_disconnected", False),
        ("closed", 1006, "client_disconnected"),
    ]


async def test_a_request_for_nothing_is_told_with_its_path(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with serving(observers=[notes]) as harness:
        with pytest.raises(Rejected):
            await harness.connect("/nowhere")
        await harness.assert_nothing_left()
    assert notes.events == [("rejected", 404, "/nowhere")]


async def test_evictions_and_bans_are_told_with_the_address(autojump_clock: MockClock) -> None:
    notes = Notes()
    limits = LimitsConfig(max_unauthenticated=1, max_invalid_tokens=1)
    async with serving(Config(port=0, limits=limits), observers=[notes]) as harness:
        harness.connect_raw(remote="192.0.2.1:1")
        await trio.testing.wait_all_tasks_blocked()
        client = await harness.connect(remote="192.0.2.2:1")
        await client.send(type="auth", token="forged")
        await client.receive_end()
        await harness.assert_nothing_left()
    assert notes.events == [
        ("evicted", "192.0.2.1", "all"),
        ("banned", "192.0.2.2", limits.ban_duration),
        ("auth", "token_invalid", False),
        ("closed", 1008, "token_invalid"),
    ]


def test_several_observers_are_each_told_everything() -> None:
    told: list[str] = []

    class All(Observer):
        def __getattribute__(self, name: str) -> object:
            return lambda *_: told.append(name)

    names = [name for name in vars(Observer) if not name.startswith("_")]
    for name in names:
        arguments = {"on_closed": 4}.get(name, 1)
        getattr(Observers([All(), All()]), name)(*[None] * arguments)
    assert told == [name for name in names for _ in range(2)]


async def test_an_observer_is_told_for_as_long_as_it_wants_to_be(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with serving() as harness:
        await harness.ready()
        with harness.server.observe(notes):
            await harness.ready("/ws/2", "bob")
        await harness.ready()
    assert [event for event in notes.events if event[0] == "ready"] == [("ready", "bob")]
