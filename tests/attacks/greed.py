"""Attackers that are authenticated: what they are after is time, memory and the other clients."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress

import msgspec
import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token
from trioserver.load.wire import encode_masked

_SMALL_BUFFER = 4096
_PIECE = 256  # requests in one go


def _request(number: int) -> bytes:
    return encode_masked(msgspec.json.encode({"type": "echo", "id": number, "data": "x" * 40}))


def _page(number: int) -> bytes:
    return encode_masked(msgspec.json.encode({"type": "page", "id": number}))


async def send_at_full_speed(field: Field, attackers: int, *, seconds: float) -> Counter[str]:
    """Each sends requests as fast as they are taken, and reads the answers; whoever is sent away
    comes back. How many bytes they got rid of, and how they were sent away."""
    requests = b"".join(map(_request, range(_PIECE)))
    counts: Counter[str] = Counter()

    async def attacker(number: int) -> None:
        while True:
            with await Peer.open(field.target, source(number)) as peer:
                if await peer.get_ready(token(f"fast-{number}")) == "ready":
                    await exchange(peer)
                counts[peer.closed_with[1] if peer.closed_with else "cut off"] += 1

    async def exchange(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, peer, nursery.cancel_scope)
            with suppress(OSError):
                while True:
                    await peer.send(requests)
                    counts["requests"] += _PIECE

    async def read(peer: Peer, scope: trio.CancelScope) -> None:
        with suppress(OSError):
            while await peer.hear() is not None:
                counts["answers"] += 1
        scope.cancel()

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(attackers):
                nursery.start_soon(attacker, number)
    return counts


async def ask_and_read_nothing(field: Field, attackers: int) -> None:
    """Each asks for pages of 10 KB without reading any, until the server has ended it."""

    async def attacker(number: int) -> None:
        with await Peer.open(field.target, source(number), receive_buffer=_SMALL_BUFFER) as peer:
            assert await peer.get_ready(token(f"deaf-{number}")) == "ready"
            with suppress(OSError):
                for first in itertools.count(0, 10):
                    await peer.send(b"".join(map(_page, range(first, first + 10))))
                    await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for number in range(attackers):
            nursery.start_soon(attacker, number)


async def fill_queues(field: Field, attackers: int, *, seconds: float) -> Counter[str]:
    """Each sends messages of nearly 1 MiB to a handler that takes its time, as many as are taken.

    How many were, and how attackers were sent away; and the most that the server held, in bytes.
    """
    message = encode_masked(msgspec.json.encode({"type": "wait", "data": "x" * 1_000_000}))
    counts: Counter[str] = Counter()

    async def attacker(number: int) -> None:
        with await Peer.open(field.target, source(number % 50)) as peer:
            assert await peer.get_ready(token(f"greedy-{number}")) == "ready"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill, peer)
                with suppress(OSError):
                    while await peer.hear() is not None:
                        pass
                nursery.cancel_scope.cancel()
            counts[peer.closed_with[1] if peer.closed_with else "cut off"] += 1

    async def fill(peer: Peer) -> None:
        with suppress(OSError):
            while True:
                await peer.send(message)
                counts["messages"] += 1
                await trio.sleep(0.15)  # within the limits of the rate

    async def look() -> None:
        while True:
            held = int((await field.metrics()).get("memory_bytes", 0))
            counts["held"] = max(counts["held"], held)
            await trio.sleep(0.25)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for number in range(attackers):
                nursery.start_soon(attacker, number)
                await trio.sleep(0.02)
    return counts


async def hear_and_read_nothing(field: Field, attackers: int) -> None:
    """All subscribe to one topic, to which events of 10 KB are published until the server has
    closed each of them."""
    limit = trio.CapacityLimiter(200)

    peers: list[Peer] = []
    try:
        async with trio.open_nursery() as nursery:
            for number in range(attackers):
                nursery.start_soon(_subscribe, field, number, limit, peers)
        assert len(peers) == attackers
        await _publish_until_closed(field, attackers)
    finally:
        for peer in peers:
            peer.close()


async def _subscribe(
    field: Field, number: int, limit: trio.CapacityLimiter, peers: list[Peer]
) -> None:
    async with limit:
        peer = await Peer.open(field.target, source(number % 50), receive_buffer=_SMALL_BUFFER)
        peers.append(peer)
        assert await peer.get_ready(token(f"deaf-{number // 50}")) == "ready"
        await peer.say(type="subscribe", id=0, topics=["news"])
        await peer.hear_until("ack")


async def _publish_until_closed(field: Field, attackers: int) -> None:
    with await Peer.open(field.target, source(200)) as publisher:
        assert await publisher.get_ready(token("publisher")) == "ready"
        before = (await field.metrics()).get(SLOW, 0)
        with trio.fail_after(60):
            while (await field.metrics()).get(SLOW, 0) - before < attackers:
                for number in range(5):
                    await publisher.say(type="announce", id=number, data="news")
                    await publisher.hear_until("ack")
                await trio.sleep(0.1)


SLOW = 'connections_closed_total{reason="slow_consumer"}'


async def subscribe_to_many(field: Field, peers: int, topics: int) -> Counter[str]:
    """Each peer to so many topics of its own, a hundred at a time; how that was answered."""
    answers: Counter[str] = Counter()

    async def peer_of(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        with await Peer.open(field.target, source(number)) as peer:
            assert await peer.get_ready(token(f"subscriber-{number}")) == "ready"
            with suppress(ConnectionResetError):  # who does not hear a no is sent away
                for begin in range(0, topics, 100):
                    names = [f"topic-{number}-{each}" for each in range(begin, begin + 100)]
                    await peer.say(type="subscribe", id=begin, topics=names)
                    answer = await peer.hear_until("ack", "error")
                    answers[answer.get("code", "ack")] += 100
            task_status.started()
            await peer.wait_end()

    async with trio.open_nursery() as staying:
        async with trio.open_nursery() as nursery:
            for number in range(peers):
                nursery.start_soon(staying.start, peer_of, number)
        metrics = await field.metrics()
        answers["held"] = int(metrics["subscriptions"])
        staying.cancel_scope.cancel()
    return answers
