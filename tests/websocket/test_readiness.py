"""Readiness of many sockets in one task: each is served, and none by the fault of another."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing

from trioserver.websocket.readiness import Readiness, socket_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


@asynccontextmanager
async def running() -> AsyncIterator[Readiness]:
    readiness = Readiness()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        yield readiness
        nursery.cancel_scope.cancel()


def reader(ours: socket.socket, read: list[bytes], size: int = 100) -> Callable[[], None]:
    return lambda: read.append(ours.recv(size))


async def test_a_socket_is_served_whenever_there_is_something_and_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    read: list[bytes] = []
    with closing(ours), closing(theirs):
        async with running() as readiness:
            readable = reader(ours, read)
            readiness.watch(ours.fileno(), readable)
            for data in (b"one", b"two"):
                theirs.send(data)
                await trio.testing.wait_all_tasks_blocked()
            theirs.shutdown(socket.SHUT_WR)
            with trio.fail_after(5):
                while len(read) < 3:
                    await trio.lowlevel.checkpoint()
            readiness.unwatch(ours.fileno(), readable)
    assert read[:3] == [b"one", b"two", b""]


async def test_a_flood_is_read_a_piece_at_a_time_and_others_have_their_turn() -> None:
    flood, flood_peer = socket.socketpair()
    quiet, quiet_peer = socket.socketpair()
    read: list[bytes] = []
    with closing(flood), closing(flood_peer), closing(quiet), closing(quiet_peer):
        flood_peer.send(b"flood")
        quiet_peer.send(b"!")
        async with running() as readiness:
            readiness.watch(flood.fileno(), reader(flood, read, size=1))
            readiness.watch(quiet.fileno(), reader(quiet, read))
            await trio.testing.wait_all_tasks_blocked()
    assert b"".join(read).replace(b"!", b"") == b"flood"
    assert read.index(b"!") <= 1


async def test_a_callback_that_raises_costs_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    bad, bad_peer = socket.socketpair()
    good, good_peer = socket.socketpair()
    read: list[bytes] = []

    def fail() -> None:
        raise RuntimeError("broken callback")

    with closing(bad), closing(bad_peer), closing(good), closing(good_peer):
        async with running() as readiness:
            readiness.watch(bad.fileno(), fail)
            readiness.watch(good.fileno(), reader(good, read))
            bad_peer.send(b"?")
            good_peer.send(b"!")
            await trio.testing.wait_all_tasks_blocked()
            assert read == [b"!"]
            assert len(readiness) == 1
    assert "broken callback" in capsys.readouterr().out


async def test_a_callback_may_end_another_that_is_due() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    served: list[int] = []
    async with running() as readiness:
        callbacks: list[Callable[[], None]] = []

        def end_all(index: int) -> None:
            served.append(index)
            for (ours, _), callback in zip(pairs, callbacks, strict=True):
                readiness.unwatch(ours.fileno(), callback)

        callbacks += [lambda: end_all(0), lambda: end_all(1)]
        for (ours, theirs), callback in zip(pairs, callbacks, strict=True):
            theirs.send(b"x")
            readiness.watch(ours.fileno(), callback)
        await trio.testing.wait_all_tasks_blocked()
        assert len(served) == 1
        assert len(readiness) == 0
    for pair in pairs:
        for end in pair:
            end.close()


async def test_only_a_plain_socket_has_one() -> None:
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    assert socket_of(stream) is ours
    assert socket_of(trio.testing.memory_stream_pair()[0]) is None
    await stream.aclose()
    theirs.close()


async def test_tasks_that_many_sockets_want_at_once_are_started_a_few_in_a_round() -> None:
    pairs = [socket.socketpair() for _ in range(100)]
    rounds: list[int] = []
    started = 0

    def start() -> None:
        nonlocal started
        started += 1

    async with running() as readiness:

        def ended(fd: int) -> None:
            readiness.unwatch(fd, callbacks[fd])
            readiness.start_in_turn(start)

        callbacks = {ours.fileno(): partial(ended, ours.fileno()) for ours, _ in pairs}
        for fd, callback in callbacks.items():
            readiness.watch(fd, callback)
        for _, theirs in pairs:
            theirs.close()
        with trio.fail_after(5):
            while started < 100:
                rounds.append(started)
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert started == 100, "each of them once"
    assert all(later - earlier <= 32 for earlier, later in pairwise([*rounds, started]))
    assert len({*rounds}) > 3
    for ours, _ in pairs:
        ours.close()
