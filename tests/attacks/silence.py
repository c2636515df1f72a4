"""Attackers that say little or nothing, and take places with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token
from trioserver.load.wire import UpgradeError

Behaviour: TypeAlias = Callable[[Peer], Awaitable[None]]
"""What an attacker does once it is connected. It may raise what a `Peer` raises."""

_AT_ONCE = 200
"""Attackers that are connecting at the same time; the kernel queues no more than some thousands."""


async def say_nothing(peer: Peer) -> None:
    await peer.wait_end()


async def upgrade_and_say_nothing(peer: Peer) -> None:
    await peer.upgrade()
    await peer.wait_end()


async def send_a_head_slowly(peer: Peer) -> None:
    """A byte a second."""
    async with trio.open_nursery() as nursery:

        async def dribble() -> None:
            for byte in b"GET /ws HTTP/1.1\r\nHost: example.org\r\nX-Long: " + b"x" * 1000:
                await peer.send(bytes([byte]))
                await trio.sleep(1.0)

        nursery.start_soon(dribble)
        await peer.wait_end()
        nursery.cancel_scope.cancel()


async def half_close(peer: Peer) -> None:
    """End the own half at once, and wait."""
    peer.sock.shutdown(trio.socket.SHUT_WR)
    await peer.wait_end()


async def upgrade_and_half_close(peer: Peer) -> None:
    await peer.upgrade()
    await half_close(peer)


async def get_ready_and_half_close(peer: Peer) -> None:
    """Behind a request, whose answer is still wanted."""
    await peer.get_ready(token("half"))
    await peer.say(type="echo", id=1, data=1)
    await half_close(peer)


async def crowd(
    field: Field, count: int, behave: Behaviour, *, addresses: int, seconds: float
) -> int:
    """So many attackers at a time, from so many addresses, for so long; who is sent away comes
    back after a second. Returns how often they connected."""
    connected = 0
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def attacker(number: int) -> None:
        nonlocal connected
        while True:
            try:
                async with limiter:
                    peer = await Peer.open(field.target, source(number % addresses))
                with peer:
                    connected += 1
                    await behave(peer)
            except* (OSError, UpgradeError):
                pass
            await trio.sleep(1.0)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(attacker, number)
    return connected
