"""The heartbeat: sends a ping at each interval, and ends a connection that stays silent after it.

Everything that arrives counts as an answer. The client chose the form: WebSocket Ping frames, or
`ping` messages for clients that cannot see those.

While reading is paused, the answer may be behind messages that the server has not read. Therefore
the server reads once when the timeout has passed, and waits for the same time again. So a client
whose reading is paused times out too, only later.

A client cannot answer a ping that is queued behind a large message. While that is so, and the
client reads what is before the ping, the timeout starts again.
"""

from __future__ import annotations

import math
from contextlib import suppress

import trio

from protocol import Refusal, codec
from protocol.messages import Ping
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.websocket.send_queue import SendQueueClosed


class Heartbeat:
    """The heartbeat of a connection. Call `beat` when it is ``due``, in seconds of Trio's clock."""

    __slots__ = (
        "_config", "_connection", "_listened", "_next_ping", "_number", "_taken", "_waiting_since",
    )  # fmt: skip

    def __init__(self, connection: ServerConnection) -> None:
        config = connection.context.config.heartbeat
        self._connection = connection
        self._config = config
        self._number = 0
        self._next_ping = trio.current_time() + config.interval
        self._waiting_since = math.inf  # since which ping nothing has been heard
        self._listened = False  # since then, while reading was paused
        self._taken = 0  # how many bytes the client had taken when that time began

    @property
    def due(self) -> float:
        """When to call `beat` next."""
        return min(self._next_ping, self._gone_at)

    @property
    def _gone_at(self) -> float:
        return self._waiting_since + self._config.timeout * (2 if self._listened else 1)

    def beat(self) -> None:
        """Send a ping, or end the connection with ``heartbeat_timeout``, if either is due."""
        now, websocket = trio.current_time(), self._connection.websocket
        send_queue = websocket.send_queue
        if websocket.last_received >= self._waiting_since:
            self._waiting_since = math.inf
            self._listened = False
        elif now >= self._gone_at and websocket.paused and not self._listened:
            self._listened = True
            websocket.read_once()
        elif (
            now >= self._gone_at
            and send_queue.control_waits
            and send_queue.bytes_sent > self._taken
        ):
            self._waiting_since, self._taken = now, send_queue.bytes_sent
            self._listened = False
        elif now >= self._gone_at:
            self._connection.fail(Refusal("heartbeat_timeout"))
            return
        if now >= self._next_ping:
            self._ping()
            if self._waiting_since == math.inf:
                self._waiting_since, self._taken = now, send_queue.bytes_sent
            self._next_ping = now + self._config.interval

    def _ping(self) -> None:
        websocket = self._connection.websocket
        self._number += 1
        with suppress(SendQueueClosed):  # the reader is about to notice
            if self._connection.protocol.heartbeat == "frame":
                websocket.ping_nowait((self._number % 2**32).to_bytes(4, "big"))
            else:
                websocket.ping_message_nowait(codec.encode(Ping()))
