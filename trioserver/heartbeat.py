"""The heartbeat loop: a ping at each interval; whoever stays silent after it is gone.

Whatever arrives counts as life. The client chose the form: WebSocket Ping frames, or `ping`
messages for clients that cannot see those.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress

import trio

from protocol import Refusal, codec
from protocol.messages import Ping
from trioserver.config import HeartbeatConfig
from trioserver.connection import Connection
from trioserver.websocket.outbox import OutboxClosed


async def heartbeat(connection: Connection, config: HeartbeatConfig) -> None:
    """Ping until cancelled, or until the connection has ended with ``heartbeat_timeout``."""
    websocket = connection._websocket
    numbers = itertools.count(1)
    next_ping = trio.current_time() + config.interval
    waiting_since = math.inf  # since which ping nothing has been heard
    while True:
        await trio.sleep_until(min(next_ping, waiting_since + config.timeout))
        now = trio.current_time()
        # A peer that is not being read cannot be heard: its queue of messages is full.
        if websocket.last_received >= waiting_since or websocket.paused:
            waiting_since = math.inf
        elif now >= waiting_since + config.timeout:
            connection._fail(Refusal("heartbeat_timeout"))
            return
        if now >= next_ping:
            _ping(connection, next(numbers))
            waiting_since = min(waiting_since, now)
            next_ping = now + config.interval


def _ping(connection: Connection, number: int) -> None:
    with suppress(OutboxClosed):  # the reader is about to notice
        if connection._session.heartbeat == "frame":
            connection._websocket.ping_nowait((number % 2**32).to_bytes(4, "big"))
        else:
            connection._websocket.ping_message_nowait(codec.encode(Ping()))
