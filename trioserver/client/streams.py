"""A request whose answer comes in parts, as whoever asked sees it."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import trio

from protocol import Id
from trioserver.client.errors import ClientError, RequestTimeout
from trioserver.client.pending import StreamCall, decode, optional

if TYPE_CHECKING:
    from trioserver.client.client import Client
    from trioserver.client.connection import Link

CANCEL_TIMEOUT: Final = 5.0
"""Seconds that leaving a stream early waits for the server to say that it has ended."""


class Stream:
    """``async with client.stream(...) as chunks: async for chunk in chunks: ...``

    Leaving early cancels it on the server, and waits for its `end` for 5 s at most; when cancelled
    it does not wait. Iterating raises `RequestRefused`, `ConnectionLost`, and
    `msgspec.ValidationError` for a chunk that does not fit; `RequestTimeout` where ``timeout``
    was given and a chunk took longer.

    A consumer that is a MiB behind makes the client stop reading, so that the server's queue fills
    and the stream's source waits. Everything else on this connection waits too; to ask a request
    meanwhile is allowed. A consumer that stays behind for longer than the server's heartbeat
    allows (`ready`: ``interval_ms`` + ``timeout_ms``) loses the connection, with
    ``slow_consumer``: use another connection for what is slow.
    """

    def __init__(
        self, client: Client, type: str, data: Any, *, reply: Any, timeout: float | None
    ) -> None:
        self.result: Any = None
        """What came with the `end`, None before."""
        self._client = client
        self._type = type
        self._data = data
        self._reply = reply
        self._timeout = timeout
        self._link: Link | None = None
        self._id: Id = 0
        self._call: StreamCall | None = None

    async def __aenter__(self) -> Stream:
        with self._client._deadline(self._type, None):
            link = await self._client._link_with_room()
        call, data = link.exchange.new_stream(), optional(self._data)
        self._id = link.exchange.begin(lambda session: session.request(self._type, data), call)
        self._link, self._call = link, call
        return self

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self._call is None:
            raise RuntimeError("a stream is opened with 'async with'")
        seconds = float("inf") if self._timeout is None else self._timeout
        with trio.move_on_after(seconds) as scope:
            try:
                chunk = await self._call.inbox.get()
            except trio.EndOfChannel:
                answer = self._call.answer()
                self.result = decode(getattr(answer, "data", None), Any)
                raise StopAsyncIteration from None
        if scope.cancelled_caught:
            raise RequestTimeout(self._type, seconds)
        return decode(chunk.data, self._reply)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        link, call = self._link, self._call
        if link is None or call is None:
            return
        try:
            if not call.is_settled:
                call.inbox.close()
                call.inbox.clear()
                link.exchange.cancel(self._id)
                with trio.move_on_after(CANCEL_TIMEOUT), suppress(ClientError):
                    await call.wait()
        finally:
            call.inbox.clear()
            link.exchange.forget(self._id)
