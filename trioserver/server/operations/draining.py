"""Sending everybody away without a stampede: each client leaves in a slot of its own."""

from __future__ import annotations

import random

import trio

from trioserver.app.connection import Connection


async def drain_connections(connections: list[Connection], *, reason: str, period: float) -> None:
    """Tell each connection its slot, and close it then; slots are spread over ``period`` seconds.

    ``reason`` is "shutdown" or "restart". Who leaves earlier makes nobody wait. Returns when the
    last one has been told to close.
    """
    leaving = random.sample(connections, len(connections))  # neighbours should not meet again
    begin = trio.current_time()
    slots = [(begin + period * n / len(leaving), c) for n, c in enumerate(leaving, start=1)]
    for slot, connection in slots:
        connection._go_away(reason, slot - begin)
    for slot, connection in slots:
        with trio.move_on_at(slot):
            await connection._ended.wait()
        connection.disconnect(reason)
