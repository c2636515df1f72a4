"""Attackers who never authenticate, or only ask again and again: HTTP, audit and log."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token
from trioserver.load.wire import UpgradeError

_OPEN = 1_100  # connections that an attacker keeps at a time
_BODY = 1_000_000
_PIECE = 12_500  # of an upload, every tenth of a second, as a phone has it


async def hold_uploads(field: Field, per_second: int, *, seconds: float) -> int:
    """Open so many HTTP connections a second from one address, each with a body that does not
    come; how many."""
    opened = 0

    async def hold() -> None:
        nonlocal opened
        try:
            with await Peer.open(field.target, source(0)) as peer:
                opened += 1
                await peer.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                await peer.wait_end()
        except OSError:
            pass

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            while True:
                if len(nursery.child_tasks) < _OPEN:
                    nursery.start_soon(hold)
                await trio.sleep(1 / per_second)
    return opened


async def upload(field: Field, address: str) -> str:
    """The first line of the answer to an upload over a slow line; empty where it was cut off."""
    with await Peer.open(field.target, address) as peer:
        head = f"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {_BODY}\r\n\r\n"
        await peer.send(head.encode())
        for _ in range(0, _BODY, _PIECE):
            await peer.send(b"x" * _PIECE)
            await trio.sleep(_PIECE / 125_000)
        return (await peer.receive()).partition(b"\r\n")[0].decode()


async def ask_without_a_pause(
    field: Field, head: bytes, attackers: int, *, addresses: int, seconds: float
) -> Counter[str]:
    """Each sends this request again and again; how they were answered."""
    answers: Counter[str] = Counter()

    async def attacker(number: int) -> None:
        while True:
            try:
                with await Peer.open(field.target, source(number % addresses)) as peer:
                    await ask(peer)
            except OSError:
                pass
            await trio.sleep(0.05)

    async def ask(peer: Peer) -> None:
        while True:
            await peer.send(head)
            answer = await peer.receive()
            if not answer:
                return
            answers[answer.split(b" ", 2)[1].decode()] += 1
            if b"connection: close" in answer.lower():
                return

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(attackers):
                nursery.start_soon(attacker, number)
    return answers


async def refresh_without_a_pause(field: Field, *, seconds: float) -> int:
    """One client shows its token again and again; how often it was taken."""
    taken = 0
    with trio.move_on_after(seconds), await Peer.open(field.target, source(0)) as peer:
        assert await peer.get_ready(token("again")) == "ready"
        while True:
            await peer.say(type="auth", token=token("again"))
            await peer.hear_until("auth_refreshed")
            taken += 1
    return taken


async def be_refused(field: Field, path: str, attackers: int, *, seconds: float) -> int:
    """Each opens a WebSocket at this path and says something else than its token; how often."""
    refused = 0

    async def attacker(number: int) -> None:
        nonlocal refused
        while True:
            try:
                with await Peer.open(field.target, source(number)) as peer:
                    await peer.upgrade(path)
                    await peer.say(type="nonsense")
                    while await peer.hear() is not None:
                        pass
                    refused += 1
            except (OSError, UpgradeError):
                pass
            await trio.sleep(0.01)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(attackers):
                nursery.start_soon(attacker, number)
    return refused


def rows(database: Path) -> Counter[str]:
    """Rows of the audit by kind."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT kind, count(*) FROM trioserver_audit GROUP BY kind")
        return Counter(dict(found.fetchall()))
