"""Attackers that authenticate, or try to: what they are after is what a verification costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count as counter

import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token


def forged() -> str:
    """Each another one, signed with another secret."""
    head, _, signature = token("mallory").rpartition(".")
    return f"{head}.{signature[::-1]}"


def expired() -> str:
    return token("sleepy", lifetime=-3600)


async def flood(
    field: Field, attackers: int, make: Callable[[], str], *, addresses: int, seconds: float
) -> Counter[str]:
    """Each connects, authenticates, leaves and begins anew, as fast as it can; how that went."""
    fared: Counter[str] = Counter()
    tokens = [make() for _ in range(200)]
    number = counter()

    async def attacker(place: int) -> None:
        while True:
            try:
                with await Peer.open(field.target, source(place % addresses)) as peer:
                    fared[await peer.get_ready(tokens[next(number) % len(tokens)])] += 1
            except OSError:
                fared["not connected"] += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for place in range(attackers):
                nursery.start_soon(attacker, place)
    return fared


async def reconnect_at_once(field: Field, count: int) -> tuple[Counter[str], float]:
    """All from one address, in the same moment, and then they stay a while; how they fared, and
    the seconds until the last was ready."""
    fared: Counter[str] = Counter()
    ready: list[float] = []
    begun = trio.current_time()

    async def client(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        with await Peer.open(field.target, source(0)) as peer:
            fared[await peer.get_ready(token(f"back-{number}"))] += 1
            ready.append(trio.current_time() - begun)
            task_status.started()
            await peer.wait_end()

    async with trio.open_nursery() as staying:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(staying.start, client, number)
        await trio.sleep(0.2)
        staying.cancel_scope.cancel()
    return fared, max(ready)
