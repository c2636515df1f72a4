"""`ClientConnection`: one connection of a client, from connecting to its end.

One task reads and dispatches messages, one writes, and one watches for a silent server. Each of
them reports the end of the connection to `ClientConnection.end`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from protocol import RemoteProtocolError
from protocol.messages import (
    Ack,
    AuthExpiring,
    AuthRefreshed,
    Chunk,
    End,
    Error,
    Event,
    Goaway,
    Message,
    Pong,
    Ready,
    ServerMessage,
)
from trioserver.client.close_reason import CLOSED, CloseReason
from trioserver.client.handshake import WatchedStream, reason_of_close, run_websocket
from trioserver.client.network import reason_from_error
from trioserver.client.options import Options
from trioserver.client.requests import RequestTracker
from trioserver.client.url import WebSocketURL

CLOSE_TIMEOUT: Final = 5.0
"""Seconds to send what is queued and close, and to wait for the Close after a fatal error."""

_log: Final = structlog.get_logger("trioserver")


class ClientConnection:
    """One connection. ``reconnect_at`` is when `goaway` said to reconnect, by Trio's clock.

    ``on_ready`` is called when `ready` arrives, before anything else is read. ``on_pushed`` is
    called with each message that answers no request, and its size.
    """

    def __init__(
        self,
        options: Options,
        url: WebSocketURL,
        on_ready: Callable[[ClientConnection, Ready], object],
        on_pushed: Callable[[Message | Event, int], object],
    ) -> None:
        self.requests = RequestTracker()
        self.reason: CloseReason | None = None
        self.ready_at: float | None = None
        self.reconnect_at: float | None = None
        self._options = options
        self._url = url
        self._on_ready = on_ready
        self._on_pushed = on_pushed
        self._expiring = trio.Event()
        self._resumed_at = 0.0
        self._is_ready = trio.Event()
        self._ended = trio.Event()

    # -------------------------------------------------------------------------- life

    async def run(self) -> CloseReason:
        """Connect, authenticate, and run until the end; returns the reason.

        ``ready_timeout`` covers everything before READY. An `OSError` of the token callable is a
        failed attempt; its other exceptions are raised here. Cancelling this closes the stream
        without a closing handshake.
        """
        try:
            with trio.move_on_after(self._options.ready_timeout) as self._until_ready:
                await self._connect()
            self.end(CloseReason.local("Not ready in time.", "connect_timeout"))
        finally:
            self.end(CLOSED)
            self.requests.resolve_all()
        assert self.reason is not None
        return self.reason

    async def _connect(self) -> None:
        url = self._url
        try:
            token = await self._options.ask_for_token()
            if self._options.token_in_query and token is not None:
                url = url.with_token(token, self._options.heartbeat)
            stream = WatchedStream(await self._options.open_stream(url))
        except (OSError, trio.BrokenResourceError) as error:
            self.end(reason_from_error(error))
            return
        try:
            await self._run_on(stream, url, token)
        finally:
            await trio.aclose_forcefully(stream)

    async def _run_on(self, stream: WatchedStream, url: WebSocketURL, token: str | None) -> None:
        options = self._options
        async with trio.open_nursery() as nursery:
            websocket = await nursery.start(
                run_websocket, stream, url, options.headers, options.max_message_bytes
            )
            if websocket is None:
                self.end(stream.handshake_failure())
            else:
                self.requests.protocol.authenticate(
                    token,
                    heartbeat=options.heartbeat,
                    in_query=options.token_in_query and token is not None,
                    initial=options.initial,
                )
                self.requests.flush()
                nursery.start_soon(self._write, websocket)
                nursery.start_soon(self._read, websocket, stream)
                nursery.start_soon(self._watch, stream)
                if options.can_refresh:
                    nursery.start_soon(self._refresh_when_expiring)
                await self._ended.wait()
                await self._close(websocket)
            nursery.cancel_scope.cancel()

    def end(self, reason: CloseReason) -> None:
        """End the connection. Only the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self.requests.end(reason)
            self._ended.set()

    async def _close(self, websocket: WebSocketConnection) -> None:
        """Close the WebSocket, unless the server has done so or has gone."""
        reason = self.reason
        if reason is None or reason.close_code is None or websocket.closed is not None:
            return
        with trio.move_on_after(CLOSE_TIMEOUT):
            if reason.is_normal:
                await self.requests.send_queue.wait_empty()
            await websocket.aclose(reason.close_code, "" if reason.is_normal else reason.code)

    # -------------------------------------------------------------------------- messages

    async def _write(self, websocket: WebSocketConnection) -> None:
        if not await self.requests.send_queue.run(websocket):
            self.end(CloseReason.local("The server does not read.", "server_silent"))

    async def _read(self, websocket: WebSocketConnection, stream: WatchedStream) -> None:
        protocol = self.requests.protocol
        try:
            while self.reason is None:
                text = await websocket.get_message()
                if isinstance(text, bytes):
                    raise RemoteProtocolError("A binary message came.")
                message = protocol.receive(text.encode(), trio.current_time())
                self.requests.flush()
                if protocol.failure is not None:
                    await self._wait_for_close(websocket, protocol.failure)
                elif message is not None:
                    await self._dispatch(message, len(text))
        except RemoteProtocolError as error:
            self.end(CloseReason.protocol_error(error.args[1]))
        except ConnectionClosed:
            self.end(reason_of_close(stream, websocket))

    async def _wait_for_close(self, websocket: WebSocketConnection, failure: Error) -> None:
        """After a fatal error: wait for the Close frame, which has the close code."""
        self.requests.end(CloseReason.from_error(failure, None))
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionClosed):
            while True:
                await websocket.get_message()
        closed = websocket.closed
        self.end(CloseReason.from_error(failure, None if closed is None else closed.code))

    async def _dispatch(self, message: ServerMessage | Message, size: int) -> None:
        match message:
            case Ready():
                self._until_ready.deadline = float("inf")
                self.ready_at = trio.current_time()
                self._is_ready.set()
                self._on_ready(self, message)
            case Chunk():
                await self._receive_chunk(message, size)
            case Ack() | End() | Pong() | AuthRefreshed() | Error():
                self.requests.receive_answer(message)
            case Event() | Message():
                self._on_pushed(message, size)
            case AuthExpiring():
                self._expiring.set()
            case Goaway():
                self.reconnect_at = trio.current_time() + message.reconnect_after_ms / 1000

    async def _receive_chunk(self, chunk: Chunk, size: int) -> None:
        """Buffer a chunk; end the connection if its consumer is behind for too long.

        Everything waits for a slow consumer, answers to pings included. The server closes the
        connection of a client that is silent for `_silence_limit`, so this waits no longer.
        """
        with trio.move_on_after(self._silence_limit) as scope:
            await self.requests.receive_chunk(chunk, size)
        self._resumed_at = trio.current_time()
        if scope.cancelled_caught:
            self.end(CloseReason.local("A stream was not read fast enough.", "slow_consumer"))

    # -------------------------------------------------------------------------- time

    @property
    def _silence_limit(self) -> float:
        """Seconds of silence after which either side considers the other one dead."""
        ready = self.requests.protocol.ready
        assert ready is not None, "not ready"
        return (ready.heartbeat.interval_ms + ready.heartbeat.timeout_ms) / 1000

    async def _watch(self, stream: WatchedStream) -> None:
        """End the connection if nothing arrives although `ready` promised regular heartbeats."""
        await self._is_ready.wait()
        while True:
            now = trio.current_time()
            if self.requests.is_paused:
                self._resumed_at = now
            left = max(self._resumed_at, stream.last_received) + self._silence_limit - now
            if left <= 0:
                text = "Nothing was received from the server for too long."
                self.end(CloseReason.local(text, "server_silent"))
                return
            await trio.sleep(left)

    async def _refresh_when_expiring(self) -> None:
        """Refresh the token when the server warns. If that fails, the old one is used until it
        expires."""
        while True:
            await self._expiring.wait()
            self._expiring = trio.Event()
            try:
                with trio.fail_after(self._options.request_timeout):
                    token = await self._options.ask_for_token()
                    await self.requests.refresh(token, self._options.heartbeat)
            except Exception as error:  # also of the program's callable
                _log.warning("client_token_refresh_failed", error=type(error).__name__)
