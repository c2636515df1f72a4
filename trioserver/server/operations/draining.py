"""Sending everybody away without a stampede: each client leaves in a slot of its own."""

from __future__ import annotations

import random

import trio

from protocol import codec, milliseconds
from protocol.messages import Goaway
from trioserver.lifecycle.server_connection import ServerConnection


async def drain_connections(
    connections: list[ServerConnection], *, reason: str, period: float
) -> None:
    """Tell each connection its slot, and close it then; slots are spread over ``period`` seconds.

    ``reason`` is "shutdown" or "restart". Who leaves earlier makes nobody wait. Returns when the
    last one has been told to close.
    """
    leaving = random.sample(connections, len(connections))  # neighbours should not meet again
    begin = trio.current_time()
    slots = [(begin + period * n / len(leaving), c) for n, c in enumerate(leaving, start=1)]
    for slot, connection in slots:
        _say_goaway(connection, reason, slot - begin)
    for slot, connection in slots:
        with trio.move_on_at(slot):
            await connection.ended.wait()
        connection.disconnect(reason)


def _say_goaway(connection: ServerConnection, reason: str, seconds: float) -> None:
    """Tell the client when it will be disconnected, and that it can come back then."""
    if not connection.has_ended:
        delay = milliseconds(seconds)
        goaway = Goaway(reason=reason, deadline_ms=delay, reconnect_after_ms=delay)
        connection.transmit(codec.encode(goaway))
