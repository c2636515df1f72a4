"""`Reconnector`: opens one connection after another, and knows which one can be used."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

import structlog
import trio

from protocol.messages import Event, Message, Ready
from trioserver.client.backoff import ReconnectPolicy
from trioserver.client.close_reason import CLOSED, CloseReason
from trioserver.client.connection import ClientConnection
from trioserver.client.errors import ConnectionLostError, iteration_error
from trioserver.client.options import Options
from trioserver.client.receive_buffer import ReceiveBuffer
from trioserver.client.requests import RequestTracker
from trioserver.client.subscribers import SubscriberRegistry
from trioserver.client.url import WebSocketURL

PUSHED_BYTES: Final = 1024 * 1024
"""Bytes of pushed messages that wait for `Client.messages`. Further ones are dropped and counted,
because a program that does not read them must not block everything else."""

_log: Final = structlog.get_logger("trioserver")


class State(Enum):
    """State of a client."""

    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Reconnector:
    """Runs the connections of a client, and distributes what they push.

    ``ready`` is the last `ready` message. ``close_reason`` says how the last connection, or the
    last attempt, ended. ``on_state`` is called at each change of ``state``.
    """

    def __init__(
        self,
        url: WebSocketURL,
        options: Options,
        on_state: Callable[[State], object] | None,
    ) -> None:
        self.url = url
        self.state = State.CONNECTING
        self.ready: Ready | None = None
        self.close_reason: CloseReason | None = None
        self.subscribers = SubscriberRegistry()
        self.pushed: ReceiveBuffer[Message] = ReceiveBuffer(max_bytes=PUSHED_BYTES)
        self._options = options
        self._on_state = on_state
        self._connection: ClientConnection | None = None
        self._leaving = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Open one connection after another, until one must not be followed by another."""
        options = self._options
        policy = ReconnectPolicy(
            backoff=options.backoff,
            reconnect=options.reconnect,
            max_attempts=options.max_attempts,
            can_refresh=options.can_refresh,
        )
        while True:
            connection = ClientConnection(options, self.url, self._on_ready, self._on_pushed)
            self.close_reason = await connection.run()
            self._disconnected()
            pause = _pause_after(connection, policy)
            if pause is None or self._leaving:
                self.close(self.close_reason)
                return
            _log.info(
                "client_reconnecting", url=str(self.url), reason=self.close_reason.code, pause=pause
            )
            if self.state is State.READY:
                self._set_state(State.RECONNECTING)
            await trio.sleep(pause)

    def close(self, reason: CloseReason = CLOSED) -> None:
        """Open no more connections. Only the first reason counts."""
        if self.state is not State.CLOSED:
            self.close_reason = reason
            self._connection = None
            self.pushed.close(iteration_error(reason))
            self.subscribers.close(reason)
            self._set_state(State.CLOSED)

    async def leave(self) -> None:
        """Close the connection normally. Returns within seconds, whatever the server does."""
        if self._connection is not None:
            self._leaving = True
            self._connection.end(CLOSED)
            await self.wait_state(State.CLOSED)

    async def wait_state(self, *states: State) -> State:
        """Wait until the state is one of these. It has no deadline."""
        await trio.lowlevel.checkpoint()
        while self.state not in states:
            await self._changed.wait()
        return self.state

    async def wait_ready(self) -> RequestTracker:
        """Wait for a READY connection whose send queue has room. It has no deadline.

        Raises `ConnectionLostError` if the client has given up.
        """
        while True:
            await self.wait_state(State.READY, State.CLOSED)
            connection = self._connection
            if connection is None:
                assert self.close_reason is not None
                raise ConnectionLostError(self.close_reason)
            await connection.requests.send_queue.wait_low_water()
            if connection is self._connection and connection.requests.is_open:
                return connection.requests
            if connection is self._connection:  # it is closing: the state changes soon
                await self._changed.wait()

    # -------------------------------------------------------------------------- connections

    def _on_ready(self, connection: ClientConnection, ready: Ready) -> None:
        self.ready = ready
        self._connection = connection
        self.subscribers.connected(connection.requests)
        self._set_state(State.READY)

    def _disconnected(self) -> None:
        self._connection = None
        self.subscribers.disconnected()

    def _on_pushed(self, message: Message | Event, size: int) -> None:
        if isinstance(message, Event):
            self.subscribers.deliver(message, size)
        else:
            self.pushed.put(message, size)

    def _set_state(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = trio.Event()
        if self._on_state is not None:
            self._on_state(state)


def _pause_after(connection: ClientConnection, policy: ReconnectPolicy) -> float | None:
    assert connection.reason is not None
    now = trio.current_time()
    ready_at, reconnect_at = connection.ready_at, connection.reconnect_at
    return policy.pause(
        connection.reason,
        ready_for=None if ready_at is None else now - ready_at,
        reconnect_in=None if reconnect_at is None else max(0.0, reconnect_at - now),
    )
