"""Requests that were sent and wait for an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import trio
from msgspec import UNSET, Raw

from protocol.messages import Ack, AuthRefreshed, Chunk, End, Error, Pong
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ConnectionLostError, RequestRejectedError
from trioserver.client.receive_buffer import ReceiveBuffer

Answer: TypeAlias = Ack | End | Pong | AuthRefreshed


class PendingRequest:
    """A request without an answer yet. It is resolved once: by the answer, by an error, or by the
    end of the connection."""

    def __init__(self) -> None:
        self._resolved = trio.Event()
        self._outcome: Answer | Error | CloseReason | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether `answer` may be called."""
        return self._outcome is not None

    def resolve(self, outcome: Answer | Error | CloseReason) -> None:
        """Set the outcome. Only the first call has an effect."""
        if self._outcome is None:
            self._outcome = outcome
            self._resolved.set()

    def receive_chunk(self, chunk: Chunk, size: int) -> None:
        """Ignore a chunk: a request that is not a stream waits for the `end` only."""

    def answer(self) -> Answer:
        """The answer. Raises `RequestRejectedError` or `ConnectionLostError`."""
        outcome = self._outcome
        assert outcome is not None, "not resolved"
        if isinstance(outcome, Error):
            raise RequestRejectedError.from_error(outcome)
        if isinstance(outcome, CloseReason):
            raise ConnectionLostError(outcome)
        return outcome

    async def wait(self) -> Answer:
        """Wait until it is resolved, then return or raise as `answer` does. It has no deadline."""
        await self._resolved.wait()
        return self.answer()


class PendingStream(PendingRequest):
    """A request whose answer consists of chunks. ``on_get`` is called when a chunk was consumed."""

    def __init__(self, *, max_bytes: int, on_get: Callable[[], object]) -> None:
        super().__init__()
        self.buffer: ReceiveBuffer[Chunk] = ReceiveBuffer(max_bytes=max_bytes, on_get=on_get)

    def resolve(self, outcome: Answer | Error | CloseReason) -> None:
        """Set the outcome. The chunks that arrived before it can still be read."""
        super().resolve(outcome)
        self.buffer.close()

    def receive_chunk(self, chunk: Chunk, size: int) -> None:
        """Buffer a chunk."""
        self.buffer.put_unbounded(chunk, size)


class UnawaitedRequest(PendingRequest):
    """A request that no task waits for. ``on_rejected`` is called if the server rejects it."""

    def __init__(self, on_rejected: Callable[[Error], object]) -> None:
        super().__init__()
        self._on_rejected = on_rejected

    def resolve(self, outcome: Answer | Error | CloseReason) -> None:
        """Set the outcome, and report a rejection."""
        super().resolve(outcome)
        if isinstance(outcome, Error):
            self._on_rejected(outcome)


def decode(data: Any, as_type: Any) -> Any:
    """Decode raw JSON as a type that msgspec supports. Absent data is decoded as null.

    Raises `msgspec.ValidationError` if it does not match the type.
    """
    return msgspec.json.decode(data if isinstance(data, Raw) else b"null", type=as_type)


def optional(data: Any) -> Any:
    """The value for a message's ``data``: None means that the field is left out."""
    return UNSET if data is None else data
