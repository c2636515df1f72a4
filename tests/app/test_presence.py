"""Who is here: one join and one leave for each user, whatever their connections do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.lifecycle.test_cancellation import MOST_STEPS, CancelAtStep, _converse, _serve_cancelled
from tests.support.app import EPOCH, Harness, World, serving
from tests.support.client import Client, Ended
from trioserver import Application, Presence, PresenceEntry, User
from trioserver.app import presence as presence_module

ONE, TWO = {"id": "1"}, {"id": "2"}


@attrs.define
class Watched:
    """A server with presence, and what its hooks were told."""

    harness: Harness
    presence: Presence
    told: list[tuple[str, str, str]] = attrs.field(factory=list)

    async def come(self, user: str = "alice", thing: str = "1") -> Client:
        return await self.harness.ready(f"/ws/{thing}", token=user)

    async def go(self, client: Client) -> None:
        await client.close()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def watched(grace: float = 0.0, **options: Any) -> AsyncIterator[Watched]:
    presence = Presence(grace=grace)
    world = World(owners={"1": "alice", "2": "alice"})
    async with serving(world=world, presence=presence, **options) as harness:
        watched = Watched(harness, presence)

        @presence.on_join
        def joined(user: User, resource: Mapping[str, str]) -> None:
            watched.told.append(("join", user.id, resource["id"]))

        @presence.on_leave
        def left(user: User, resource: Mapping[str, str]) -> None:
            watched.told.append(("leave", user.id, resource["id"]))

        yield watched
    assert len(presence) == 0


async def test_a_user_with_two_connections_joins_once_and_leaves_once(
    autojump_clock: MockClock,
) -> None:
    async with watched() as here:
        first = await here.come()
        await trio.sleep(5)
        second = await here.come()
        assert here.presence.users(ONE) == (PresenceEntry("alice", 2, EPOCH),)
        await here.go(first)
        assert here.presence.users(ONE) == (PresenceEntry("alice", 1, EPOCH),)
        assert here.told == [("join", "alice", "1")]
        await here.go(second)
        assert here.presence.users(ONE) == ()
        assert here.told == [("join", "alice", "1"), ("leave", "alice", "1")]


async def test_each_resource_has_a_presence_of_its_own(autojump_clock: MockClock) -> None:
    async with watched() as here:
        first = await here.come(thing="1")
        await here.come(thing="2")
        presence = here.presence
        assert [present.connections for present in presence.users()] == [2]
        assert [present.connections for present in presence.users(TWO)] == [1]
        assert len(presence.connections("alice", ONE)) == 1
        assert set(presence.connections()) == set(here.harness.server.connections)
        await here.go(first)
        assert not presence.is_present("alice", ONE)
        assert presence.is_present("alice", TWO)
        assert presence.is_present("alice")
        assert not presence.is_present("bob")
        assert presence.users({"id": "3"}) == presence.users({"other": "1"}) == ()


async def test_who_is_refused_was_never_here(autojump_clock: MockClock) -> None:
    async with watched() as here:
        for token in ("bob", "forged", "expired"):
            client = await here.harness.connect("/ws/1")
            await client.send(type="auth", token=token)
            await client.receive_end()
        assert here.told == []


async def test_who_vanishes_leaves(autojump_clock: MockClock) -> None:
    async with watched() as here:
        (await here.come()).vanish()
        await here.harness.assert_nothing_left()
        assert here.told == [("join", "alice", "1"), ("leave", "alice", "1")]


async def test_a_connection_that_replaces_another_is_no_new_user(autojump_clock: MockClock) -> None:
    async with watched(supersede=True) as here:
        old = await here.come()
        await here.come()
        (_, closed) = await old.receive_end()
        assert closed.reason == "superseded"
        await trio.sleep(10)
        assert here.told == [("join", "alice", "1")]
        assert [present.connections for present in here.presence.users(ONE)] == [1]


async def test_who_comes_back_within_the_grace_period_never_left(autojump_clock: MockClock) -> None:
    async with watched(grace=5.0) as here:
        for _ in range(3):
            await here.go(await here.come())
            assert here.presence.users(ONE) == (PresenceEntry("alice", 0, EPOCH),)
            assert here.presence.is_present("alice", ONE)
            await trio.sleep(4.9)
        assert here.told == [("join", "alice", "1")]
        await trio.sleep(0.05)
        assert here.told == [("join", "alice", "1")]
        await trio.sleep(0.1)
        assert here.told == [("join", "alice", "1"), ("leave", "alice", "1")]


async def test_the_grace_period_counts_from_the_last_end(autojump_clock: MockClock) -> None:
    async with watched(grace=5.0) as here:
        await here.go(await here.come())
        await trio.sleep(1.0)
        await here.go(await here.come(thing="2"))
        await trio.sleep(3.0)
        await here.go(await here.come())
        await trio.sleep(2.5)
        assert [one for one in here.told if one[0] == "leave"] == [("leave", "alice", "2")]
        await trio.sleep(2.4)
        assert here.presence.is_present("alice", ONE)
        await trio.sleep(0.2)
        assert not here.presence.is_present("alice")


async def test_at_the_servers_end_nobody_is_awaited(autojump_clock: MockClock) -> None:
    async with watched(grace=3600.0) as here:
        await here.go(await here.come())
        await here.come(thing="2")
        told = here.told
    assert sorted(told) == sorted(
        (event, "alice", thing) for event in ("join", "leave") for thing in ("1", "2")
    )


async def test_no_more_are_awaited_than_there_is_room_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "MAX_AWAITED", 1)
    async with watched(grace=60.0) as here:
        await here.go(await here.come(thing="1"))
        await here.go(await here.come(thing="2"))
        assert here.told[-1] == ("leave", "alice", "1")
        assert here.presence.is_present("alice", TWO)


async def test_joins_and_leaves_are_events_of_a_topic(autojump_clock: MockClock) -> None:
    async with watched() as here:
        here.harness.world.owners["1"] = "bob"
        listener = await here.come("bob")
        topic = here.presence.topic(ONE)
        assert topic == "presence:/ws/1"
        await listener.send(type="subscribe", topics=[topic], id=1)
        await listener.receive_until("ack")
        here.harness.world.owners["1"] = "alice"
        for _ in range(2):
            await here.go(await here.come())
        events = [(await listener.receive_until("event"))["data"] for _ in range(4)]
        assert events == [{"event": event, "user": "alice"} for event in ("join", "leave")] * 2


async def test_a_hook_that_fails_harms_nobody(autojump_clock: MockClock) -> None:
    async with watched() as here:

        @here.presence.on_join
        def broken(user: User, resource: Mapping[str, str]) -> None:
            raise RuntimeError("broken")

        client = await here.come()
        assert (await client.request("echo", {"text": "a"}))["type"] == "ack"
        assert here.presence.is_present("alice")


async def test_a_connection_cancelled_at_any_await_is_not_here_any_more(
    autojump_clock: MockClock,
) -> None:
    async with watched() as here:
        for step in range(1, MOST_STEPS, 3):
            instrument = CancelAtStep(step)
            trio.lowlevel.add_instrument(instrument)
            try:
                client = await _serve_cancelled(here.harness, instrument)
                try:
                    await _converse(client)
                except (Ended, trio.BrokenResourceError):
                    assert instrument.scope.cancel_called
                await here.harness.assert_nothing_left()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            assert len(here.presence) == 0
            if instrument.left > 0:
                break
        joins = [one for one in here.told if one[0] == "join"]
        assert len(here.told) == 2 * len(joins) > 50


@pytest.mark.parametrize("grace", [-1.0, float("nan"), 3601.0])
def test_a_bad_grace_is_refused(grace: float) -> None:
    with pytest.raises(ValueError, match="grace"):
        Presence(grace=grace)


def test_a_presence_belongs_to_one_route() -> None:
    async def authenticate(*_: object) -> User:
        return User(id="alice")

    app, presence = Application(auth=authenticate), Presence()
    with pytest.raises(RuntimeError, match="route"):
        presence.topic()
    first = app.route("/ws/first", presence=presence)
    assert first.presence is presence
    assert presence.topic() == "presence:/ws/first"
    with pytest.raises(ValueError, match="already"):
        app.route("/ws/second", presence=presence)
    with pytest.raises(RuntimeError, match="presence=Presence"):
        _ = app.route("/ws/third").presence


def test_a_topic_has_the_path_as_a_url_has_it() -> None:
    async def owns(*_: object) -> bool:
        return True

    presence = Presence()
    app = Application(auth=owns)  # type: ignore[arg-type]
    app.route("/ws/{room}/{part}", authorize=owns, presence=presence)
    assert presence.topic({"room": "a/b", "part": "ü {x}"}) == "presence:/ws/a%2Fb/%C3%BC%20%7Bx%7D"
    with pytest.raises(KeyError):
        presence.topic({"room": "a"})
