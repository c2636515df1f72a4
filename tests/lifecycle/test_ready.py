"""Who was READY? Everybody who is told of connections gives the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import trio
import trio.testing
from trio.testing import MockClock

from tests.lifecycle.test_cancellation import MOST_STEPS, CancelAtStep, _serve_cancelled
from tests.support.app import Harness, World, serving
from tests.support.client import Client, Ended
from trioserver import (
    Application,
    AuthAttempt,
    AuthConfig,
    Config,
    Connection,
    ConnectionFilter,
    Observer,
    Presence,
    User,
)

SHORT = Config(port=0, auth=AuthConfig(timeout=2.0))


@attrs.define
class Watch(Observer):
    """What each of those who are told has been told, by the name of the connection's resource."""

    world: World
    presence: Presence
    told: dict[str, list[str]] = attrs.field(factory=dict)
    outcomes: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.presence.on_join(self._joined)
        self.presence.on_leave(self._left)

    def _joined(self, user: User, resource: Mapping[str, str]) -> None:
        self._note("presence", "came")

    def _left(self, user: User, resource: Mapping[str, str]) -> None:
        self._note("presence", "went")

    def on_ready(self, connection: Connection) -> None:
        self._note("observer", "came")

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        self.outcomes.append(attempt.code or "ready")
        if attempt.code is None:
            self._note("attempts", "came")

    def on_closed(self, connection: Connection, code: int, reason: str, phases: Any) -> None:
        if phases.ready is not None:
            self._note("phases", "came")

    def _note(self, who: str, what: str) -> None:
        self.told.setdefault(who, []).append(what)

    def of_hooks(self) -> list[Any]:
        return [each for each in self.world.seen if each in ("ready", "closed")]


def watching() -> Watch:
    return Watch(World(), Presence())


async def open_unread(harness: Harness, token: str = "alice") -> Client:
    """A client that sends its token, and never reads the answer."""
    client = harness.connect_raw(lockstep=True)
    await client.open("/ws/1")
    await client.receive_until("hello")
    await client.send(type="auth", token=token)
    await trio.testing.wait_all_tasks_blocked()
    return client


async def test_a_peer_that_never_reads_its_ready_was_never_there(
    autojump_clock: MockClock,
) -> None:
    watch = watching()
    async with serving(
        SHORT, world=watch.world, observers=[watch], presence=watch.presence
    ) as harness:
        await open_unread(harness)
        server = harness.server
        assert server.connections == ()
        assert server.statistics().ready == 0
        assert server.connection_totals_nowait().phases["ready"] == 0
        assert server.inspect_all(ConnectionFilter(phase="ready")) == []
        assert [each.phase for each in server.inspect_all()] == ["authorizing"]
        await harness.assert_nothing_left()
        assert watch.told == {}
        assert watch.of_hooks() == []
        assert watch.outcomes == ["auth_timeout"]
        assert server.metrics.ready == 0
        assert server.statistics().rejected == {"auth_timeout": 1}
        assert server.statistics().closed == {"auth_timeout": 1}


async def test_whoever_has_its_ready_is_there_for_everybody(autojump_clock: MockClock) -> None:
    watch = watching()
    async with serving(world=watch.world, observers=[watch], presence=watch.presence) as harness:
        client = await harness.ready()
        server = harness.server
        assert len(server.connections) == 1  # by the time that the client can know of it
        assert server.statistics().ready == 1
        assert server.connection_totals_nowait().phases["ready"] == 1
        await client.close()
        await harness.assert_nothing_left()
        assert watch.told == {
            "observer": ["came"],
            "presence": ["came", "went"],
            "attempts": ["came"],
            "phases": ["came"],
        }
        assert watch.of_hooks() == ["ready", "closed"]
        assert server.statistics().rejected == {}


async def test_a_connection_that_ends_in_the_moment_it_is_ready_was_there_for_everybody(
    autojump_clock: MockClock,
) -> None:
    watch = watching()

    class Impatient(Observer):
        def on_ready(self, connection: Connection) -> None:
            connection.disconnect()

    observers = [watch, Impatient()]
    async with serving(world=watch.world, observers=observers, presence=watch.presence) as harness:
        client = await harness.connect()
        await client.send(type="auth", token="alice")
        await client.receive_end()
        await harness.assert_nothing_left()
        assert watch.told["presence"] == ["came", "went"]
        assert watch.told["observer"] == watch.told["attempts"] == watch.told["phases"] == ["came"]
        assert watch.of_hooks() == ["ready", "closed"]


async def test_a_connection_cancelled_at_any_await_is_the_same_for_all_that_are_told(
    autojump_clock: MockClock,
) -> None:
    """But for ``on_ready``, which cannot run any more where the server itself is cancelled."""
    for step in range(1, MOST_STEPS):
        watch = watching()
        async with serving(
            world=watch.world, observers=[watch], presence=watch.presence
        ) as harness:
            instrument = CancelAtStep(step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await _come_and_go(harness, instrument)
                await harness.assert_nothing_left()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            came = "observer" in watch.told
            assert watch.told.get("presence", []) == (["came", "went"] if came else [])
            assert watch.told.get("phases", []) == (["came"] if came else [])
            assert watch.told.get("attempts", []) in ([], ["came"] if came else [])
        if instrument.left > 0:
            break
    assert came


async def _come_and_go(harness: Harness, instrument: CancelAtStep) -> None:
    client = await _serve_cancelled(harness, instrument)
    try:
        await client.open("/ws/1")
        await client.authenticate("alice")
        await client.close()
    except (Ended, trio.BrokenResourceError):
        assert instrument.scope.cancel_called


async def test_an_observer_that_raises_ends_the_connection_that_it_was_told_of_and_no_other(
    autojump_clock: MockClock,
) -> None:
    class Broken(Observer):
        def on_ready(self, connection: Connection) -> None:
            if connection.user.id == "bob":
                raise RuntimeError("the observer is broken")

    async with serving(observers=[Broken()]) as harness:
        alice = await harness.ready()
        bob = await harness.connect("/ws/2")
        await bob.send(type="auth", token="bob")
        _, closed = await bob.receive_end()
        assert closed.reason == "internal_error"
        assert (await alice.request("note"))["type"] == "ack"


async def test_a_peer_that_does_not_read_its_ready_supersedes_nobody(
    autojump_clock: MockClock,
) -> None:
    async with serving(SHORT, supersede=True) as harness:
        alice = await harness.ready()
        await open_unread(harness)
        assert (await alice.request("note"))["type"] == "ack"


async def test_who_is_ready_at_the_last_moment_is_not_told_that_it_was_too_late(
    autojump_clock: MockClock,
) -> None:
    """The deadline and the authenticator wake in the same tick; which of them first is Trio's
    choice, so there are several."""
    app = Application(auth=World(verify_delay=SHORT.auth.timeout).authenticate)
    app.route("/ws")
    async with serving(SHORT, app=app) as harness:
        for _ in range(16):
            ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
            harness.nursery.start_soon(harness.server.serve_stream, theirs)
            client = Client(ours)
            await client.open("/ws")
            await client.receive_until("hello")
            await client.send(type="auth", token="alice")
            first = await client.receive()
            if first["type"] == "ready":
                await client.send(type="ping", id=1)
                assert (await client.receive())["type"] == "pong"
            else:
                assert first["code"] == "auth_timeout"
            await ours.aclose()
