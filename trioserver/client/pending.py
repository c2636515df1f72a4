"""What was sent and awaits an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import trio
from msgspec import UNSET, Raw

from protocol.messages import Ack, AuthRefreshed, Chunk, End, Error, Pong
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ConnectionLost, RequestRefused
from trioserver.client.receive_buffer import Inbox

Answer: TypeAlias = Ack | End | Pong | AuthRefreshed


class Call:
    """A request. It is settled once: with the answer, an error, or the end of the connection."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._outcome: Answer | Error | CloseReason | None = None

    @property
    def is_settled(self) -> bool:
        """Whether `answer` has something to say."""
        return self._outcome is not None

    def settle(self, outcome: Answer | Error | CloseReason) -> None:
        """This is how it ended; the first time counts."""
        if self._outcome is None:
            self._outcome = outcome
            self._settled.set()

    def take(self, chunk: Chunk, size: int) -> None:
        """A chunk has come; a request that is no stream waits for the `end`."""

    def answer(self) -> Answer:
        """What it was settled with. Raises `RequestRefused`, `ConnectionLost`."""
        outcome = self._outcome
        assert outcome is not None, "not settled"
        if isinstance(outcome, Error):
            raise RequestRefused.of(outcome)
        if isinstance(outcome, CloseReason):
            raise ConnectionLost(outcome)
        return outcome

    async def wait(self) -> Answer:
        """Wait until it is settled, then as `answer`. The deadline is the caller's."""
        await self._settled.wait()
        return self.answer()


class StreamCall(Call):
    """A request whose answer comes in chunks. ``on_get`` is called when one has been taken."""

    def __init__(self, *, max_bytes: int, on_get: Callable[[], object]) -> None:
        super().__init__()
        self.inbox: Inbox[Chunk] = Inbox(max_bytes=max_bytes, on_get=on_get)

    def settle(self, outcome: Answer | Error | CloseReason) -> None:
        """What has come before can still be taken."""
        super().settle(outcome)
        self.inbox.close()

    def take(self, chunk: Chunk, size: int) -> None:
        """Keep a chunk."""
        self.inbox.force(chunk, size)


class WatchedCall(Call):
    """A request that nobody waits for; ``on_refused`` is called when it is refused."""

    def __init__(self, on_refused: Callable[[Error], object]) -> None:
        super().__init__()
        self._on_refused = on_refused

    def settle(self, outcome: Answer | Error | CloseReason) -> None:
        """Pass a refusal on."""
        super().settle(outcome)
        if isinstance(outcome, Error):
            self._on_refused(outcome)


def decode(data: Any, as_type: Any) -> Any:
    """JSON as it came, as a type that msgspec knows; nothing reads as null.

    Raises `msgspec.ValidationError` where it does not fit.
    """
    return msgspec.json.decode(data if isinstance(data, Raw) else b"null", type=as_type)


def optional(data: Any) -> Any:
    """None is sent as nothing."""
    return UNSET if data is None else data
