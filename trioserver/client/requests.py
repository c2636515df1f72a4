"""Requests and answers on one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from protocol import ClientProtocol, Id, LocalProtocolError
from protocol.errors import ERRORS
from protocol.fields import HeartbeatMode
from protocol.messages import Chunk, Error
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ConnectionLostError, RequestRejectedError
from trioserver.client.pending import Answer, PendingRequest, PendingStream
from trioserver.client.send_queue import SendQueue

STREAM_BYTES: Final = 1024 * 1024
"""Bytes of chunks that a stream's consumer may be behind before the client stops reading."""

STREAM_BYTES_WHILE_REQUESTING: Final = 16 * STREAM_BYTES
"""The same limit while a request is pending, because the consumer may be the task that waits for
its answer. If the client stopped reading then, it would wait for itself. Before that answer, at
most the server's queue and the kernel's buffers arrive, a few MiB."""


class RequestTracker:
    """The protocol state of one connection, what it sends, and its pending requests.

    ``is_paused`` is True while `receive_chunk` waits for a slow consumer.
    """

    def __init__(self) -> None:
        self.protocol = ClientProtocol(trio.current_time())
        self.send_queue = SendQueue()
        self.is_paused = False
        self._pending: dict[Id, PendingRequest] = {}
        self._consumed = trio.Event()
        self._end_reason: CloseReason | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._end_reason is None

    @property
    def count(self) -> int:
        """Number of pending requests."""
        return len(self._pending)

    def end(self, reason: CloseReason) -> None:
        """Send no more: the connection has ended, or is about to. See also `resolve_all`."""
        self._end_reason = reason
        self.protocol.lost()

    def resolve_all(self) -> None:
        """Resolve all pending requests with the reason that `end` was called with."""
        assert self._end_reason is not None, "not ended"
        for request in self._pending.values():
            request.resolve(self._end_reason)
        self._pending.clear()
        self.send_queue.close()

    def flush(self) -> None:
        """Queue the messages that the protocol wants to send."""
        self.send_queue.put(self.protocol.outgoing)
        self.protocol.outgoing.clear()

    # -------------------------------------------------------------------------- sending

    def begin(self, send: Callable[[ClientProtocol], Id], request: PendingRequest) -> Id:
        """Send a request with ``send``; ``request`` is resolved with its answer.

        The caller must call `forget` with the returned id at the end.

        Raises `RequestRejectedError` if the server would close the connection because of this
        message, `ConnectionLostError` after the end, and `TypeError` or `ValueError` for data that
        JSON cannot express. Then nothing was sent.
        """
        self._check_open()
        try:
            id = send(self.protocol)
        except LocalProtocolError as error:
            row = ERRORS["too_many_in_flight"]
            raise RequestRejectedError(error.code, row.message, row.retry) from None
        self._pending[id] = request
        try:
            self._check_size()
        except RequestRejectedError:
            self.forget(id)
            raise
        self.flush()
        self._wake()
        return id

    async def request(self, send: Callable[[ClientProtocol], Id]) -> Answer:
        """Send a request with ``send`` and wait for its answer. It has no deadline.

        Raises as `begin` and `PendingRequest.wait`.
        """
        request = PendingRequest()
        id = self.begin(send, request)
        try:
            return await request.wait()
        finally:
            self.forget(id)

    def send(self, type: str, data: object) -> None:
        """Send a message that needs no answer. Raises as `begin`."""
        self._check_open()
        self.protocol.send(type, data)
        self._check_size()
        self.flush()

    def _check_open(self) -> None:
        if self._end_reason is not None:
            raise ConnectionLostError(self._end_reason)

    def _check_size(self) -> None:
        ready, outgoing = self.protocol.ready, self.protocol.outgoing
        if ready is not None and len(outgoing[-1]) > ready.limits.max_message_bytes:
            outgoing.pop()
            row = ERRORS["message_too_big"]
            raise RequestRejectedError(row.name, row.message, row.retry)

    def forget(self, id: Id) -> None:
        """Stop waiting for an answer. If it arrives later it is ignored."""
        self._pending.pop(id, None)
        self.protocol.forget(id)
        self._wake()

    def cancel(self, id: Id) -> None:
        """Ask the server to end a stream."""
        if self._end_reason is None:
            self.protocol.cancel(id)
            self.flush()

    def new_stream(self) -> PendingStream:
        """Make a request for `begin` that buffers chunks."""
        return PendingStream(max_bytes=STREAM_BYTES, on_get=self._wake)

    async def refresh(self, token: str | None, heartbeat: HeartbeatMode | None) -> None:
        """Send a new token and wait until the server has accepted it. Raises as `request`."""

        def send(protocol: ClientProtocol) -> Id:
            id = protocol.authenticate(token, heartbeat=heartbeat)
            assert id is not None, "a refresh has an id"
            return id

        await self.request(send)

    # -------------------------------------------------------------------------- receiving

    def receive_answer(self, message: Answer | Error) -> None:
        """Resolve the request that this message answers, if one is pending."""
        request = None if message.id is None else self._pending.pop(message.id, None)
        if request is not None:
            request.resolve(message)

    async def receive_chunk(self, chunk: Chunk, size: int) -> None:
        """Buffer a chunk, and wait while its consumer is too far behind.

        Nothing else is read meanwhile. The kernel's buffers fill, then the server's queue, and the
        stream's source waits. The protocol has no other way to slow down a stream. The deadline is
        the caller's; cancelling this loses nothing.
        """
        request = self._pending.get(chunk.id)
        if request is None:
            return
        request.receive_chunk(chunk, size)
        try:
            while self._is_behind(request):
                self.is_paused = True
                self._consumed = trio.Event()
                await self._consumed.wait()
        finally:
            self.is_paused = False

    def _is_behind(self, request: PendingRequest) -> bool:
        if not isinstance(request, PendingStream) or request.buffer.bytes <= STREAM_BYTES:
            return False
        requesting = any(not isinstance(other, PendingStream) for other in self._pending.values())
        return not requesting or request.buffer.bytes > STREAM_BYTES_WHILE_REQUESTING

    def _wake(self) -> None:
        self._consumed.set()
