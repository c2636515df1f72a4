"""Readiness of many sockets in one task: each is served, and none by the fault of another."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.patience import PATIENCE
from trioserver.websocket.poller import Readiness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


@asynccontextmanager
async def running() -> AsyncIterator[Readiness]:
    readiness = Readiness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        yield readiness
        nursery.cancel_scope.cancel()


class Spy:
    """A source that notes each step. ``holds``: how often it has something to wait for."""

    def __init__(
        self,
        ours: socket.socket,
        steps: list[tuple[str, Any]],
        *,
        size: int = 100,
        holds: int = 0,
        act: Callable[[], None] = lambda: None,
    ) -> None:
        self._ours = ours
        self._steps = steps
        self._size = size
        self._holds = holds
        self._act = act

    def read_now(self) -> bytes | None:
        return self._ours.recv(self._size)

    def take_now(self, data: bytes, now: float) -> None:
        assert now <= trio.current_time()
        self._steps.append(("take", data))
        self._act()

    def send_now(self) -> bool:
        self._steps.append(("send", self._ours.fileno()))
        self._holds -= 1
        return self._holds < 0


def taken(steps: list[tuple[str, Any]]) -> list[bytes]:
    return [data for step, data in steps if step == "take"]


async def test_a_socket_is_served_whenever_there_is_something_and_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as readiness:
            source = Spy(ours, steps)
            readiness.watch(ours.fileno(), source)
            for data in (b"one", b"two"):
                theirs.send(data)
                await trio.testing.wait_all_tasks_blocked()
            theirs.shutdown(socket.SHUT_WR)
            with trio.fail_after(PATIENCE):
                while len(taken(steps)) < 3:
                    await trio.lowlevel.checkpoint()
            readiness.unwatch(ours.fileno(), source)
    assert taken(steps)[:3] == [b"one", b"two", b""]


async def test_a_flood_is_read_a_piece_at_a_time_and_others_have_their_turn() -> None:
    flood, flood_peer = socket.socketpair()
    quiet, quiet_peer = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(flood), closing(flood_peer), closing(quiet), closing(quiet_peer):
        flood_peer.send(b"flood")
        quiet_peer.send(b"!")
        async with running() as readiness:
            readiness.watch(flood.fileno(), Spy(flood, steps, size=1))
            readiness.watch(quiet.fileno(), Spy(quiet, steps))
            await trio.testing.wait_all_tasks_blocked()
    read = taken(steps)
    assert b"".join(read).replace(b"!", b"") == b"flood"
    assert read.index(b"!") <= 1


async def test_all_that_are_ready_are_read_then_handled_then_answered() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    steps: list[tuple[str, Any]] = []
    async with running() as readiness:
        for ours, theirs in pairs:
            theirs.send(b"x")
            readiness.watch(ours.fileno(), Spy(ours, steps))
        await trio.testing.wait_all_tasks_blocked()
    assert [step for step, _ in steps] == ["take"] * 3 + ["send"] * 3
    for pair in pairs:
        for end in pair:
            end.close()


async def test_who_is_about_to_send_more_is_asked_again_when_tasks_have_had_their_turn() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as readiness, trio.open_nursery() as nursery:

            async def task() -> None:
                steps.append(("task", None))

            start = partial(nursery.start_soon, task)
            readiness.watch(ours.fileno(), Spy(ours, steps, holds=2, act=start))
            theirs.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
    words = [step for step, _ in steps]
    assert words.count("send") == 3
    assert words[:2] == ["take", "send"]
    assert words[-1] == "send"
    assert "task" in words


async def test_who_holds_back_in_a_turn_sends_at_its_end_and_nobody_does_outside_of_one() -> None:
    ours, theirs = socket.socketpair()
    other, other_peer = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    async with running() as readiness:
        assert not readiness.turn_is_coming
        held = Spy(other, steps)

        def send_to_the_other() -> None:
            assert readiness.turn_is_coming
            readiness.hold(held)

        readiness.watch(ours.fileno(), Spy(ours, steps, act=send_to_the_other))
        theirs.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(steps) == [("send", fd) for fd in sorted([ours.fileno(), other.fileno()])] + [
            ("take", b"x")
        ]
        assert not readiness.turn_is_coming
    for end in (ours, theirs, other, other_peer):
        end.close()


async def test_what_is_held_back_is_sent_also_when_there_is_no_other_turn() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as readiness:
            readiness.watch(ours.fileno(), Spy(ours, steps, holds=10**9))
            theirs.send(b"x")
            while not steps:
                await trio.lowlevel.checkpoint()
            assert readiness.turn_is_coming
        assert not readiness.turn_is_coming
        assert steps[-1] == ("send", ours.fileno())


@pytest.mark.parametrize("step", ["read_now", "take_now", "send_now"])
async def test_a_source_that_raises_costs_nobody_else(
    step: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, bad_peer = socket.socketpair()
    good, good_peer = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    broken = Spy(bad, [])

    def fail(*_: Any) -> None:
        raise RuntimeError("broken source")

    monkeypatch.setattr(broken, step, fail)
    with closing(bad), closing(bad_peer), closing(good), closing(good_peer):
        async with running() as readiness:
            readiness.watch(bad.fileno(), broken)
            readiness.watch(good.fileno(), Spy(good, steps))
            bad_peer.send(b"?")
            good_peer.send(b"!")
            await trio.testing.wait_all_tasks_blocked()
            assert steps == [("take", b"!"), ("send", good.fileno())]
            assert len(readiness) == 1
    assert "broken source" in capsys.readouterr().out


async def test_a_task_that_cannot_be_started_costs_nobody_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[str] = []

    def fail() -> None:
        raise RuntimeError("its nursery is closed")

    async with running() as readiness:
        for start in (fail, partial(started.append, "small")):
            readiness.start_in_turn(start)
        for start in (fail, partial(started.append, "large")):
            readiness.start_large_in_turn(start)
        with trio.fail_after(PATIENCE):
            while len(started) < 2:
                await trio.lowlevel.checkpoint()
    assert capsys.readouterr().out.count("its nursery is closed") >= 2


async def test_what_was_read_is_handled_also_when_another_has_ended_it() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    steps: list[tuple[str, Any]] = []
    async with running() as readiness:
        sources: list[Spy] = []

        def end_all() -> None:
            for (ours, _), source in zip(pairs, sources, strict=True):
                readiness.unwatch(ours.fileno(), source)

        for ours, theirs in pairs:
            sources.append(Spy(ours, steps, act=end_all))
            theirs.send(b"x")
            readiness.watch(ours.fileno(), sources[-1])
        await trio.testing.wait_all_tasks_blocked()
        assert taken(steps) == [b"x", b"x"]
        assert len(readiness) == 0
    for pair in pairs:
        for end in pair:
            end.close()


async def test_tasks_that_many_sockets_want_at_once_are_started_a_few_in_a_round() -> None:
    pairs = [socket.socketpair() for _ in range(100)]
    rounds: list[int] = []
    started = 0

    def start() -> None:
        nonlocal started
        started += 1

    async with running() as readiness:

        def ended(ours: socket.socket) -> None:
            readiness.unwatch(ours.fileno(), sources[ours.fileno()])
            readiness.start_in_turn(start)

        sources = {ours.fileno(): Spy(ours, [], act=partial(ended, ours)) for ours, _ in pairs}
        for fd, source in sources.items():
            readiness.watch(fd, source)
        for _, theirs in pairs:
            theirs.close()
        with trio.fail_after(PATIENCE):
            while started < 100:
                rounds.append(started)
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert started == 100, "each of them once"
    assert all(later - earlier <= 32 for earlier, later in pairwise([*rounds, started]))
    assert len({*rounds}) > 3
    for ours, _ in pairs:
        ours.close()


async def test_large_messages_have_their_turn_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A message that took 50 ms keeps the next large one waiting for 150."""
    times: list[float] = []

    async with running() as readiness:

        def start() -> None:
            times.append(trio.current_time())
            readiness.held(0.05 if len(times) < 4 else 0.001)

        begun = trio.current_time()
        for _ in range(6):
            readiness.start_large_in_turn(start)
        await trio.sleep(10.0)
    assert [round(at - begun, 3) for at in times] == [0.0, 0.15, 0.3, 0.45, 0.45, 0.45]


async def test_small_messages_are_served_between_large_ones() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as readiness:
            readiness.watch(ours.fileno(), Spy(ours, steps))

            def start() -> None:
                steps.append(("take", b"large"))
                theirs.send(b"small")

            for _ in range(5):
                readiness.start_large_in_turn(start)
            with trio.fail_after(5):
                while len(taken(steps)) < 10:
                    await trio.lowlevel.checkpoint()
            readiness.unwatch(ours.fileno(), readiness._sources[ours.fileno()])
    assert taken(steps) == [b"large", b"small"] * 5
