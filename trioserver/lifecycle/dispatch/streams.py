"""Handlers that answer with many values: each runs as a task of its own, until its `end`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from protocol import Id, Refusal
from protocol.codec import encode
from protocol.messages import Chunk, End, Message
from trioserver.app.connection import Connection
from trioserver.app.handlers import Handler
from trioserver.config import HandlerConfig, LimitsConfig
from trioserver.lifecycle.dispatch.answers import encode_result, refuse_for
from trioserver.logs.context import bind_connection, bind_request
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.websocket.headers import encode_text

if TYPE_CHECKING:
    from trioserver.telemetry.tracing import ConnectionTracing


class Streams:
    """Those of one connection."""

    __slots__ = ("_cancelled_early", "_connection", "_most", "_running", "_timeout", "_times")

    def __init__(
        self,
        connection: Connection,
        *,
        limits: LimitsConfig,
        handlers: HandlerConfig,
        times: RouteTimes,
    ) -> None:
        self._connection = connection
        self._most = limits.max_streams
        self._timeout = handlers.chunk_timeout
        self._times = times
        self._running: dict[Id, trio.CancelScope] = {}
        self._cancelled_early: set[Id] = set()

    def start(self, handler: Handler, message: Message, done: Callable[[], None]) -> None:
        """Start one, unless it was cancelled while it waited, or is one too many.

        ``done`` is called when the message is not held any more.
        """
        id, connection = message.id, self._connection
        assert id is not None
        if id in self._cancelled_early:
            self._end(id, End(id=id, cancelled=True))
            done()
        elif len(self._running) >= self._most:
            connection._session.finish(id)
            connection._refuse(Refusal("too_many_in_flight", "Too many streams."), id)
            done()
        else:
            self._running[id] = trio.CancelScope()
            connection.start_soon(self._run, handler, message, id, done)

    def cancel(self, id: Id) -> bool:
        """End one early; False where none of this id runs."""
        if id in self._running:
            self._running[id].cancel()
            return True
        return False

    def cancel_early(self, id: Id) -> None:
        """End one that still waits to be started."""
        self._cancelled_early.add(id)

    async def _run(
        self, handler: Handler, message: Message, id: Id, done: Callable[[], None]
    ) -> None:
        connection = self._connection
        bind_connection(connection.id, connection.user.id)
        bind_request(id)
        began, outcome = perf_counter(), Outcome.CANCELLED
        scope = self._running[id]
        try:
            with scope:
                await self._send_chunks(handler, message, id)
                outcome = Outcome.OK
            self._end(id, End(id=id, cancelled=scope.cancelled_caught or None))
        except Exception as error:
            connection._session.finish(id)
            outcome = refuse_for(connection, error, message.type, id)
        finally:
            self._times[handler.type].add(outcome, perf_counter() - began)
            del self._running[id]
            done()

    async def _send_chunks(self, handler: Handler, message: Message, id: Id) -> None:
        tracing: ConnectionTracing | None = self._connection._tracing
        if tracing is None:
            await self._send_values(handler, message, id)
        else:
            with tracing.handle(handler, message):
                await self._send_values(handler, message, id)

    async def _send_values(self, handler: Handler, message: Message, id: Id) -> None:
        connection = self._connection
        values = handler.function(connection, *handler.arguments(message))
        seq = 0
        async with aclosing(values):
            while True:
                await connection._wait_for_room()
                try:
                    with trio.fail_after(self._timeout):
                        value = await anext(values)
                except StopAsyncIteration:
                    return
                if connection._session.close is not None:
                    return
                chunk = Chunk(id=id, seq=seq, data=value)
                await connection._put(encode_text(encode_result(chunk)))
                seq += 1

    def _end(self, id: Id, end: End) -> None:
        self._cancelled_early.discard(id)
        session = self._connection._session
        session.finish(id)
        if session.close is None:
            self._connection._transmit(encode(end))
