"""Streams: handlers that answer with many values. Each runs as a task of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from time import perf_counter
from typing import Any

import trio

from protocol import Id, Refusal
from protocol.codec import encode
from protocol.messages import Chunk, End, Message
from trioserver.app.handlers import Handler
from trioserver.lifecycle.dispatch.answers import answer_error, encode_result
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.context import bind_connection, bind_request
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.websocket.headers import encode_text


class Streams:
    """The streams of one connection."""

    __slots__ = (
        "_cancelled_early", "_connection", "_most", "_running", "_span", "_timeout",
        "_times",
    )  # fmt: skip

    def __init__(self, connection: ServerConnection, times: RouteTimes) -> None:
        config, tracing = connection.context.config, connection.tracing
        self._connection = connection
        self._most = config.limits.max_streams
        self._timeout = config.handlers.chunk_timeout
        self._times = times
        self._span: Callable[..., AbstractContextManager[Any]] = (
            _no_span if tracing is None else tracing.handle
        )
        self._running: dict[Id, trio.CancelScope] = {}
        self._cancelled_early: set[Id] = set()

    def start(self, handler: Handler, message: Message, done: Callable[[], None]) -> None:
        """Start a stream, unless it was cancelled while it waited, or there are too many.

        ``done`` is called when the message need not be kept any more.
        """
        id, connection = message.id, self._connection
        assert id is not None
        if id in self._cancelled_early:
            self._end(id, End(id=id, cancelled=True))
            done()
        elif len(self._running) >= self._most:
            connection.protocol.finish(id)
            connection.refuse(Refusal("too_many_in_flight", "Too many streams."), id)
            done()
        else:
            self._running[id] = trio.CancelScope()
            connection.start_soon(self._run, handler, message, id, done)

    def cancel(self, id: Id) -> bool:
        """Cancel the stream with this id; return False if none is running."""
        if id in self._running:
            self._running[id].cancel()
            return True
        return False

    def cancel_early(self, id: Id) -> None:
        """Cancel a stream that has not been started yet."""
        self._cancelled_early.add(id)

    async def _run(
        self, handler: Handler, message: Message, id: Id, done: Callable[[], None]
    ) -> None:
        connection = self._connection
        bind_connection(connection.id, connection.facade.user.id)
        bind_request(id)
        began, outcome = perf_counter(), Outcome.CANCELLED
        scope = self._running[id]
        try:
            with scope:
                await self._send_chunks(handler, message, id)
                outcome = Outcome.OK
            self._end(id, End(id=id, cancelled=scope.cancelled_caught or None))
        except Exception as error:
            connection.protocol.finish(id)
            outcome = answer_error(connection, error, message.type, id)
        finally:
            self._times[handler.type].add(outcome, perf_counter() - began)
            del self._running[id]
            done()

    async def _send_chunks(self, handler: Handler, message: Message, id: Id) -> None:
        with self._span(handler, message):
            await self._send_values(handler, message, id)

    async def _send_values(self, handler: Handler, message: Message, id: Id) -> None:
        connection = self._connection
        values = handler.function(connection.facade, *handler.arguments(message))
        seq = 0
        async with aclosing(values):
            while True:
                await connection.wait_room()
                try:
                    with trio.fail_after(self._timeout):
                        value = await anext(values)
                except StopAsyncIteration:
                    return
                if connection.protocol.close is not None:
                    return
                chunk = Chunk(id=id, seq=seq, data=value)
                await connection.put(encode_text(encode_result(chunk)))
                seq += 1

    def _end(self, id: Id, end: End) -> None:
        self._cancelled_early.discard(id)
        session = self._connection.protocol
        session.finish(id)
        if session.close is None:
            self._connection.transmit(encode(end))


def _no_span(handler: Handler, message: Message) -> AbstractContextManager[Any]:
    return nullcontext()
