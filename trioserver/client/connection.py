"""One connection of a client, from the opened stream to its end; `Client` makes one after another.

One task reads and hands out, one writes, one watches the clock; what ends it is told to `end`.
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
from trioserver.client.close_reason import CLOSED, CloseReason, lost, of_error, protocol_error
from trioserver.client.handshake import WatchedStream, reason_of_close, run_websocket
from trioserver.client.options import Options
from trioserver.client.requests import Exchange
from trioserver.client.url import Address, reason_of_error

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for what is queued and the closing handshake, and for the Close after a fatal error."""

_log: Final = structlog.get_logger("trioserver.client")


class Link:
    """One connection. ``come_back_at``: what `goaway` said, by Trio's clock.

    ``on_ready`` is called at the `ready`, before anything else is read; ``on_pushed`` with each
    message that answers nothing, and its size.
    """

    def __init__(
        self,
        options: Options,
        address: Address,
        on_ready: Callable[[Link, Ready], object],
        on_pushed: Callable[[Message | Event, int], object],
    ) -> None:
        self.exchange = Exchange()
        self.reason: CloseReason | None = None
        self.ready_at: float | None = None
        self.come_back_at: float | None = None
        self._options = options
        self._address = address
        self._on_ready = on_ready
        self._on_pushed = on_pushed
        self._expiring = trio.Event()
        self._heard_at = 0.0
        self._is_ready = trio.Event()
        self._over = trio.Event()

    # -------------------------------------------------------------------------- the whole life

    async def run(self) -> CloseReason:
        """Connect, authenticate, and live until it is over; why it is.

        Raises what the callable for the token raises, other than `OSError`: that is a failed
        attempt. Cancelling this leaves without a word. `ready_timeout` is over all before READY.
        """
        try:
            with trio.move_on_after(self._options.ready_timeout) as self._until_ready:
                await self._connect()
            self.end(lost("Not ready in time.", "connect_timeout"))
        finally:
            self.end(CLOSED)
            self.exchange.settle_all()
        assert self.reason is not None
        return self.reason

    async def _connect(self) -> None:
        address = self._address
        try:
            token = await self._options.ask_for_token()
            if self._options.token_in_query and token is not None:
                address = address.with_token(token, self._options.heartbeat)
            stream = WatchedStream(await self._options.open_stream(address))
        except (OSError, trio.BrokenResourceError) as error:
            self.end(reason_of_error(error))
            return
        try:
            await self._live(stream, address, token)
        finally:
            await trio.aclose_forcefully(stream)

    async def _live(self, stream: WatchedStream, address: Address, token: str | None) -> None:
        options = self._options
        async with trio.open_nursery() as work:
            websocket = await work.start(
                run_websocket, stream, address, options.headers, options.max_message_bytes
            )
            if websocket is None:
                self.end(stream.refusal())
            else:
                self.exchange.session.authenticate(
                    token,
                    heartbeat=options.heartbeat,
                    in_query=options.token_in_query and token is not None,
                    initial=options.initial,
                )
                self.exchange.flush()
                work.start_soon(self._write, websocket)
                work.start_soon(self._read, websocket, stream)
                work.start_soon(self._watch, stream)
                if options.can_refresh:
                    work.start_soon(self._refresh_when_asked)
                await self._over.wait()
                await self._part(websocket)
            work.cancel_scope.cancel()

    def end(self, reason: CloseReason) -> None:
        """It is over; the first reason counts."""
        if self.reason is None:
            self.reason = reason
            self.exchange.end(reason)
            self._over.set()

    async def _part(self, websocket: WebSocketConnection) -> None:
        """Close, if the server is still there and this side is the first to."""
        reason = self.reason
        if reason is None or reason.close_code is None or websocket.closed is not None:
            return
        with trio.move_on_after(CLOSE_TIMEOUT):
            if reason.is_normal:
                await self.exchange.outgoing.wait_sent()
            await websocket.aclose(reason.close_code, "" if reason.is_normal else reason.code)

    # -------------------------------------------------------------------------- working

    async def _write(self, websocket: WebSocketConnection) -> None:
        if not await self.exchange.outgoing.run(websocket):
            self.end(lost("The server does not read.", "server_silent"))

    async def _read(self, websocket: WebSocketConnection, stream: WatchedStream) -> None:
        session = self.exchange.session
        try:
            while self.reason is None:
                text = await websocket.get_message()
                if isinstance(text, bytes):
                    raise RemoteProtocolError("A binary message came.")
                message = session.receive(text.encode(), trio.current_time())
                self.exchange.flush()
                if session.failure is not None:
                    await self._await_close(websocket, session.failure)
                elif message is not None:
                    await self._take(message, len(text))
        except RemoteProtocolError as error:
            self.end(protocol_error(error.args[1]))
        except ConnectionClosed:
            self.end(reason_of_close(stream, websocket))

    async def _await_close(self, websocket: WebSocketConnection, failure: Error) -> None:
        self.exchange.end(of_error(failure, None))
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionClosed):
            while True:
                await websocket.get_message()
        closed = websocket.closed
        self.end(of_error(failure, None if closed is None else closed.code))

    async def _take(self, message: ServerMessage | Message, size: int) -> None:
        match message:
            case Ready():
                self._until_ready.deadline = float("inf")
                self.ready_at = trio.current_time()
                self._is_ready.set()
                self._on_ready(self, message)
            case Chunk():
                await self._take_chunk(message, size)
            case Ack() | End() | Pong() | AuthRefreshed() | Error():
                self.exchange.answered(message)
            case Event() | Message():
                self._on_pushed(message, size)
            case AuthExpiring():
                self._expiring.set()
            case Goaway():
                self.come_back_at = trio.current_time() + message.reconnect_after_ms / 1000

    async def _take_chunk(self, chunk: Chunk, size: int) -> None:
        """Everything waits for a slow consumer, pings included; so after the time in which the
        server gives a silent client up, it is over."""
        with trio.move_on_after(self._patience) as scope:
            await self.exchange.take(chunk, size)
        self._heard_at = trio.current_time()
        if scope.cancelled_caught:
            self.end(lost("A stream was not read fast enough.", "slow_consumer"))

    # -------------------------------------------------------------------------- time

    @property
    def _patience(self) -> float:
        """Seconds of silence after which one side gives the other up."""
        ready = self.exchange.session.ready
        assert ready is not None, "not ready"
        return (ready.heartbeat.interval_ms + ready.heartbeat.timeout_ms) / 1000

    async def _watch(self, stream: WatchedStream) -> None:
        """Notice a server that is gone: `ready` promised a sign of life at each interval."""
        await self._is_ready.wait()
        while True:
            now = trio.current_time()
            if self.exchange.paused:
                self._heard_at = now
            left = max(self._heard_at, stream.last_received) + self._patience - now
            if left <= 0:
                self.end(lost("Nothing was heard from the server for too long.", "server_silent"))
                return
            await trio.sleep(left)

    async def _refresh_when_asked(self) -> None:
        """Renew the token in-band. Where that fails the old one counts until it expires."""
        while True:
            await self._expiring.wait()
            self._expiring = trio.Event()
            try:
                with trio.fail_after(self._options.request_timeout):
                    token = await self._options.ask_for_token()
                    await self.exchange.refresh(token, self._options.heartbeat)
            except Exception as error:  # of the program's callable, too
                _log.warning("token_not_refreshed", error=type(error).__name__)
