"""Draining: connections are closed one by one, so that clients do not all reconnect at once."""

from __future__ import annotations

import random

import trio

from protocol import codec, milliseconds
from protocol.messages import Goaway
from trioserver.lifecycle.server_connection import ServerConnection


async def drain_connections(
    connections: list[ServerConnection], *, reason: str, period: float
) -> None:
    """Send `goaway` to all connections, and close them one by one, over ``period`` seconds.

    ``reason`` is "shutdown" or "restart". Each client is told when its connection will be closed.
    If it disconnects earlier, nothing waits for it. Returns when the last one is closing.
    """
    leaving = random.sample(connections, len(connections))  # those of one address apart
    begin = trio.current_time()
    times = [(begin + period * n / len(leaving), c) for n, c in enumerate(leaving, start=1)]
    for time, connection in times:
        _send_goaway(connection, reason, time - begin)
    for time, connection in times:
        with trio.move_on_at(time):
            await connection.ended.wait()
        connection.disconnect(reason)


def _send_goaway(connection: ServerConnection, reason: str, seconds: float) -> None:
    """Tell the client when it will be disconnected, and that it can come back then."""
    if not connection.has_ended:
        delay = milliseconds(seconds)
        goaway = Goaway(reason=reason, deadline_ms=delay, reconnect_after_ms=delay)
        connection.transmit(codec.encode(goaway))
