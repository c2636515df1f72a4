"""`Stream`: a request whose answer consists of chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeAlias

import trio

from protocol import Id
from trioserver.client.errors import ClientError, RequestTimeoutError
from trioserver.client.pending import PendingStream, decode, optional
from trioserver.client.requests import RequestTracker

CANCEL_TIMEOUT: Final = 5.0
"""Seconds that leaving a stream early waits for its `end`."""

WaitReady: TypeAlias = Callable[[str], Awaitable[RequestTracker]]
"""Waits for a READY connection, within a deadline; the argument names the request in errors."""


class Stream:
    """``async with client.stream(...) as chunks: async for chunk in chunks: ...``

    Leaving the block early cancels the stream on the server and waits for its `end`, for at most
    5 s. When the block is cancelled it does not wait. Iteration raises `RequestRejectedError`,
    `ConnectionLostError`, `msgspec.ValidationError` for a chunk that does not match ``reply``, and
    `RequestTimeoutError` if ``timeout`` was given and a chunk took longer.

    If the consumer is more than 1 MiB behind, the client stops reading. The server's queue fills
    then, and the source of the stream waits. Everything else on this connection waits too, except
    that requests can still be sent. A consumer that stays behind for longer than the server's
    heartbeat allows (`ready`: ``interval_ms`` + ``timeout_ms``) loses the connection with
    ``slow_consumer``. Use a separate connection for a slow consumer.
    """

    def __init__(
        self, wait_ready: WaitReady, type: str, data: Any, *, reply: Any, timeout: float | None
    ) -> None:
        self.result: Any = None
        """The data of the `end`; None before it."""
        self._wait_ready = wait_ready
        self._type = type
        self._data = data
        self._reply = reply
        self._timeout = timeout
        self._requests: RequestTracker | None = None
        self._id: Id = 0
        self._pending: PendingStream | None = None

    async def __aenter__(self) -> Stream:
        requests = await self._wait_ready(self._type)
        pending, data = requests.new_stream(), optional(self._data)
        self._id = requests.begin(lambda protocol: protocol.request(self._type, data), pending)
        self._requests, self._pending = requests, pending
        return self

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self._pending is None:
            raise RuntimeError("open the stream with 'async with' before you iterate")
        seconds = float("inf") if self._timeout is None else self._timeout
        with trio.move_on_after(seconds) as scope:
            try:
                chunk = await self._pending.buffer.get()
            except trio.EndOfChannel:
                answer = self._pending.answer()
                self.result = decode(getattr(answer, "data", None), Any)
                raise StopAsyncIteration from None
        if scope.cancelled_caught:
            raise RequestTimeoutError(self._type, seconds)
        return decode(chunk.data, self._reply)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        requests, pending = self._requests, self._pending
        if requests is None or pending is None:
            return
        try:
            if not pending.is_resolved:
                pending.buffer.close()
                pending.buffer.clear()
                requests.cancel(self._id)
                with trio.move_on_after(CANCEL_TIMEOUT), suppress(ClientError):
                    await pending.wait()
        finally:
            pending.buffer.clear()
            requests.forget(self._id)
