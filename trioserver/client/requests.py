"""Requests and answers on one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from protocol import ClientProtocol, Id, LocalProtocolError
from protocol.errors import ERRORS
from protocol.messages import Chunk, Error, HeartbeatMode
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ConnectionLost, RequestRefused
from trioserver.client.pending import Answer, Call, StreamCall
from trioserver.client.send_queue import Outgoing

STREAM_BYTES: Final = 1024 * 1024
"""What a stream's consumer may be behind before the client stops reading."""

STREAM_BYTES_WHILE_ASKING: Final = 16 * STREAM_BYTES
"""The same while the answer to a request is awaited, which may be what the consumer waits for: to
stop reading then would be to wait for oneself. What is under way before that answer is the
server's queue and the kernel's buffers, a few MiB."""


class Exchange:
    """A session, what it sends, and who awaits what. ``paused``: see `take`."""

    def __init__(self) -> None:
        self.session = ClientProtocol(trio.current_time())
        self.outgoing = Outgoing()
        self.paused = False
        self._calls: dict[Id, Call] = {}
        self._taken = trio.Event()
        self._over: CloseReason | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can be asked."""
        return self._over is None

    def end(self, reason: CloseReason) -> None:
        """The connection has ended, or is about to; `settle_all` tells the calls."""
        self._over = reason
        self.session.lost()

    def settle_all(self) -> None:
        """No answer will come."""
        assert self._over is not None, "not ended"
        for call in self._calls.values():
            call.settle(self._over)
        self._calls.clear()
        self.outgoing.close()

    def flush(self) -> None:
        """Send what the session wants sent."""
        self.outgoing.put(self.session.outgoing)
        self.session.outgoing.clear()

    # -------------------------------------------------------------------------- asking

    def begin(self, send: Callable[[ClientProtocol], Id], call: Call) -> Id:
        """Send a request; ``call`` is settled with its answer. `forget` it in the end.

        Raises `RequestRefused` for what would cost the connection, `ConnectionLost`, and
        `TypeError` or `ValueError` for what JSON cannot express; then nothing was sent.
        """
        self._check_open()
        try:
            id = send(self.session)
        except LocalProtocolError as error:
            row = ERRORS["too_many_in_flight"]
            raise RequestRefused(error.code, row.message, row.retry) from None
        self._calls[id] = call
        try:
            self._check_size()
        except RequestRefused:
            self.forget(id)
            raise
        self.flush()
        self._wake()
        return id

    def send(self, type: str, data: object) -> None:
        """Send a message that wants no answer. Raises as `begin`."""
        self._check_open()
        self.session.send(type, data)
        self._check_size()
        self.flush()

    def _check_open(self) -> None:
        if self._over is not None:
            raise ConnectionLost(self._over)

    def _check_size(self) -> None:
        ready, outgoing = self.session.ready, self.session.outgoing
        if ready is not None and len(outgoing[-1]) > ready.limits.max_message_bytes:
            outgoing.pop()
            row = ERRORS["message_too_big"]
            raise RequestRefused(row.name, row.message, row.retry)

    def forget(self, id: Id) -> None:
        """The answer is awaited no longer."""
        self._calls.pop(id, None)
        self.session.forget(id)
        self._wake()

    def cancel(self, id: Id) -> None:
        """Tell the server that a stream's chunks are not wanted any more."""
        if self._over is None:
            self.session.cancel(id)
            self.flush()

    def new_stream(self) -> StreamCall:
        """A call for `begin` whose chunks are to be kept."""
        return StreamCall(max_bytes=STREAM_BYTES, on_get=self._wake)

    async def refresh(self, token: str | None, heartbeat: HeartbeatMode | None) -> None:
        """Send a new token and wait until it is accepted. Raises as `begin` and `Call.wait`."""

        def send(session: ClientProtocol) -> Id:
            id = session.authenticate(token, heartbeat=heartbeat)
            assert id is not None, "a refresh has an id"
            return id

        call = Call()
        id = self.begin(send, call)
        try:
            await call.wait()
        finally:
            self.forget(id)

    # -------------------------------------------------------------------------- answers

    def answered(self, message: Answer | Error) -> None:
        """An answer has come; one that nobody awaits is nobody's."""
        call = None if message.id is None else self._calls.pop(message.id, None)
        if call is not None:
            call.settle(message)

    async def take(self, chunk: Chunk, size: int) -> None:
        """A chunk has come: keep it, and wait while its consumer is behind.

        Nothing more is read meanwhile. The kernel's buffers fill, then the server's queue, and the
        stream's source waits: that is the only way this protocol has to slow one down. The
        deadline is the caller's; cancelling this loses nothing.
        """
        call = self._calls.get(chunk.id)
        if call is None:
            return
        call.take(chunk, size)
        try:
            while self._is_behind(call):
                self.paused = True
                self._taken = trio.Event()
                await self._taken.wait()
        finally:
            self.paused = False

    def _is_behind(self, call: Call) -> bool:
        if not isinstance(call, StreamCall) or call.inbox.bytes <= STREAM_BYTES:
            return False
        asking = any(not isinstance(other, StreamCall) for other in self._calls.values())
        return not asking or call.inbox.bytes > STREAM_BYTES_WHILE_ASKING

    def _wake(self) -> None:
        self._taken.set()
