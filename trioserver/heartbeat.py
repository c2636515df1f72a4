"""The heartbeat loop: a ping at each interval; whoever stays silent after it is gone.

Whatever arrives counts as life. The client chose the form: WebSocket Ping frames, or `ping`
messages for clients that cannot see those.
"""

from __future__ import annotations

import itertools

import trio

from protocol import Refusal, codec
from protocol.messages import Ping
from trioserver.config import HeartbeatConfig
from trioserver.connection import Connection
from trioserver.websocket.outbox import OutboxClosed


async def heartbeat(connection: Connection, config: HeartbeatConfig) -> None:
    """Ping until cancelled, or until the connection has ended with ``heartbeat_timeout``."""
    websocket = connection._websocket
    for number in itertools.count(1):
        await trio.sleep(config.interval)
        pinged_at = trio.current_time()
        try:
            _ping(connection, number)
        except OutboxClosed:
            return
        await trio.sleep(config.timeout)
        # A peer that is not being read cannot be heard: its queue of messages is full.
        if websocket.last_received < pinged_at and not websocket.paused:
            connection._fail(Refusal("heartbeat_timeout"))
            return


def _ping(connection: Connection, number: int) -> None:
    if connection._session.heartbeat == "frame":
        connection._websocket.ping_nowait(number.to_bytes(4, "big"))
    else:
        connection._websocket.ping_message_nowait(codec.encode(Ping()))
