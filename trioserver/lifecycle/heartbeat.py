"""The heartbeat: a ping at each interval; whoever stays silent after it is gone.

Whatever arrives counts as life. The client chose the form: WebSocket Ping frames, or `ping`
messages for clients that cannot see those.

A client that reading is paused for cannot be heard: its answer may stand behind messages that the
server has not read. When its time is over, one piece of what it has sent is read all the same, and
it has the same time once more in which something has to come. So being paused exempts nobody.

A ping that waits behind a large message cannot be answered. While it waits, and the client takes
what is before it, the time begins anew.
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
    """The heartbeat of one connection; `beat` is to be called whenever it is ``due``.

    ``due`` is by Trio's clock, in seconds.
    """

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
        """When something is to be done next."""
        return min(self._next_ping, self._gone_at)

    @property
    def _gone_at(self) -> float:
        return self._waiting_since + self._config.timeout * (2 if self._listened else 1)

    def beat(self) -> None:
        """Ping, or end the connection with ``heartbeat_timeout``, or do nothing if it is early."""
        now, websocket = trio.current_time(), self._connection.websocket
        send_queue = websocket.send_queue
        if websocket.last_received >= self._waiting_since:
            self._waiting_since = math.inf
            self._listened = False
        elif now >= self._gone_at and websocket.paused and not self._listened:
            self._listened = True
            websocket.listen()
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
