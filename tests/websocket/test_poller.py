"""Many sockets in one task: each is served, and none by the fault of another."""

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
from trioserver.websocket.poller import SocketPoller

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


@asynccontextmanager
async def running() -> AsyncIterator[SocketPoller]:
    poller = SocketPoller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        yield poller
        nursery.cancel_scope.cancel()


class Spy:
    """A `PollHandler` that notes each step. ``holds``: how often it has something to wait for."""

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

    def read_nowait(self) -> bytes | None:
        return self._ours.recv(self._size)

    def receive_nowait(self, data: bytes, now: float) -> None:
        assert now <= trio.current_time()
        self._steps.append(("take", data))
        self._act()

    def flush_nowait(self) -> bool:
        self._steps.append(("send", self._ours.fileno()))
        self._holds -= 1
        return self._holds < 0


def taken(steps: list[tuple[str, Any]]) -> list[bytes]:
    return [data for step, data in steps if step == "take"]


async def test_a_socket_is_served_whenever_there_is_something_and_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as poller:
            handler = Spy(ours, steps)
            poller.watch(ours.fileno(), handler)
            for data in (b"one", b"two"):
                theirs.send(data)
                await trio.testing.wait_all_tasks_blocked()
            theirs.shutdown(socket.SHUT_WR)
            with trio.fail_after(PATIENCE):
                while len(taken(steps)) < 3:
                    await trio.lowlevel.checkpoint()
            poller.unwatch(ours.fileno(), handler)
    assert taken(steps)[:3] == [b"one", b"two", b""]


async def test_a_flood_is_read_a_piece_at_a_time_and_others_have_their_turn() -> None:
    flood, flood_peer = socket.socketpair()
    quiet, quiet_peer = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(flood), closing(flood_peer), closing(quiet), closing(quiet_peer):
        flood_peer.send(b"flood")
        quiet_peer.send(b"!")
        async with running() as poller:
            poller.watch(flood.fileno(), Spy(flood, steps, size=1))
            poller.watch(quiet.fileno(), Spy(quiet, steps))
            await trio.testing.wait_all_tasks_blocked()
    read = taken(steps)
    assert b"".join(read).replace(b"!", b"") == b"flood"
    assert read.index(b"!") <= 1


async def test_all_that_are_ready_are_read_then_handled_then_answered() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    steps: list[tuple[str, Any]] = []
    async with running() as poller:
        for ours, theirs in pairs:
            theirs.send(b"x")
            poller.watch(ours.fileno(), Spy(ours, steps))
        await trio.testing.wait_all_tasks_blocked()
    assert [step for step, _ in steps] == ["take"] * 3 + ["send"] * 3
    for pair in pairs:
        for end in pair:
            end.close()


async def test_who_is_about_to_send_more_is_asked_again_when_tasks_have_had_their_turn() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as poller, trio.open_nursery() as nursery:

            async def task() -> None:
                steps.append(("task", None))

            start = partial(nursery.start_soon, task)
            poller.watch(ours.fileno(), Spy(ours, steps, holds=2, act=start))
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
    async with running() as poller:
        assert not poller.in_batch
        held = Spy(other, steps)

        def send_to_the_other() -> None:
            assert poller.in_batch
            poller.defer_flush(held)

        poller.watch(ours.fileno(), Spy(ours, steps, act=send_to_the_other))
        theirs.send(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(steps) == [("send", fd) for fd in sorted([ours.fileno(), other.fileno()])] + [
            ("take", b"x")
        ]
        assert not poller.in_batch
    for end in (ours, theirs, other, other_peer):
        end.close()


async def test_what_is_held_back_is_sent_also_when_there_is_no_other_turn() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as poller:
            poller.watch(ours.fileno(), Spy(ours, steps, holds=10**9))
            theirs.send(b"x")
            while not steps:
                await trio.lowlevel.checkpoint()
            assert poller.in_batch
        assert not poller.in_batch
        assert steps[-1] == ("send", ours.fileno())


@pytest.mark.parametrize("step", ["read_nowait", "receive_nowait", "flush_nowait"])
async def test_a_handler_that_raises_costs_nobody_else(
    step: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, bad_peer = socket.socketpair()
    good, good_peer = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    broken = Spy(bad, [])

    def fail(*_: Any) -> None:
        raise RuntimeError("broken handler")

    monkeypatch.setattr(broken, step, fail)
    with closing(bad), closing(bad_peer), closing(good), closing(good_peer):
        async with running() as poller:
            poller.watch(bad.fileno(), broken)
            poller.watch(good.fileno(), Spy(good, steps))
            bad_peer.send(b"?")
            good_peer.send(b"!")
            await trio.testing.wait_all_tasks_blocked()
            assert steps == [("take", b"!"), ("send", good.fileno())]
            assert len(poller) == 1
    assert "broken handler" in capsys.readouterr().out


async def test_a_task_that_cannot_be_started_costs_nobody_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[str] = []

    def fail() -> None:
        raise RuntimeError("its nursery is closed")

    async with running() as poller:
        for start in (fail, partial(started.append, "small")):
            poller.schedule_start(start)
        for start in (fail, partial(started.append, "large")):
            poller.schedule_large_start(start)
        with trio.fail_after(PATIENCE):
            while len(started) < 2:
                await trio.lowlevel.checkpoint()
    assert capsys.readouterr().out.count("its nursery is closed") >= 2


async def test_what_was_read_is_handled_also_when_another_has_ended_it() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    steps: list[tuple[str, Any]] = []
    async with running() as poller:
        handlers: list[Spy] = []

        def end_all() -> None:
            for (ours, _), handler in zip(pairs, handlers, strict=True):
                poller.unwatch(ours.fileno(), handler)

        for ours, theirs in pairs:
            handlers.append(Spy(ours, steps, act=end_all))
            theirs.send(b"x")
            poller.watch(ours.fileno(), handlers[-1])
        await trio.testing.wait_all_tasks_blocked()
        assert taken(steps) == [b"x", b"x"]
        assert len(poller) == 0
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

    async with running() as poller:

        def ended(ours: socket.socket) -> None:
            poller.unwatch(ours.fileno(), handlers[ours.fileno()])
            poller.schedule_start(start)

        handlers = {ours.fileno(): Spy(ours, [], act=partial(ended, ours)) for ours, _ in pairs}
        for fd, handler in handlers.items():
            poller.watch(fd, handler)
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

    async with running() as poller:

        def start() -> None:
            times.append(trio.current_time())
            poller.record_duration(0.05 if len(times) < 4 else 0.001)

        begun = trio.current_time()
        for _ in range(6):
            poller.schedule_large_start(start)
        await trio.sleep(10.0)
    assert [round(at - begun, 3) for at in times] == [0.0, 0.15, 0.3, 0.45, 0.45, 0.45]


async def test_small_messages_are_served_between_large_ones() -> None:
    ours, theirs = socket.socketpair()
    steps: list[tuple[str, Any]] = []
    with closing(ours), closing(theirs):
        async with running() as poller:
            spy = Spy(ours, steps)
            poller.watch(ours.fileno(), spy)

            def start() -> None:
                steps.append(("take", b"large"))
                theirs.send(b"small")

            for _ in range(5):
                poller.schedule_large_start(start)
            with trio.fail_after(5):
                while len(taken(steps)) < 10:
                    await trio.lowlevel.checkpoint()
            poller.unwatch(ours.fileno(), spy)
    assert taken(steps) == [b"large", b"small"] * 5
