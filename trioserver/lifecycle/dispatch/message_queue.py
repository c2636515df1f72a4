"""Messages that wait to be handled, bounded in number and bytes."""

from __future__ import annotations

from typing import Final, TypeAlias

from protocol.messages import Message, Ping
from trioserver.config import LimitsConfig
from trioserver.lifecycle.dispatch.topics import TopicRequest
from trioserver.websocket.websocket import WebSocket

_GRANULARITY: Final = 1024
"""Bytes. Smaller changes of what is held are not reported to the memory account."""

Job: TypeAlias = Message | TopicRequest | Ping
"""What the message loop handles."""


class MessageQueue:
    """The ``jobs`` of one connection that wait for the message loop, each with its size in bytes.

    Reading from the client is paused when the queue is full, and resumed when it is half empty. The
    queue also reports to the memory account what is held for messages: those that wait, the one
    that is handled, and the requests of streams.
    """

    __slots__ = (
        "_held_bytes", "_limits", "_paused", "_queued_bytes", "_reported_bytes", "_websocket",
        "jobs",
    )  # fmt: skip

    def __init__(self, websocket: WebSocket, limits: LimitsConfig) -> None:
        self._websocket = websocket
        self._limits = limits
        self.jobs: list[tuple[Job, int]] = []  # short, and mostly empty
        self._queued_bytes = 0
        self._held_bytes = 0
        self._reported_bytes = 0
        self._paused = False

    def put(self, job: Job, size: int) -> None:
        """Add a job, which is always accepted. Pause reading if the queue is full now."""
        self.jobs.append((job, size))
        self._queued_bytes += size
        self.hold(size)
        limits = self._limits
        if (
            len(self.jobs) >= limits.max_queued_messages
            or self._queued_bytes >= limits.max_queued_bytes
        ):
            self._paused = True
            self._websocket.pause()

    def get(self) -> tuple[Job, int]:
        """Remove the first job. Its bytes are held until the caller calls `hold` with ``-size``."""
        job, size = self.jobs.pop(0)
        self._queued_bytes -= size
        if self._paused:
            self._resume_at_half()
        return job, size

    def clear(self) -> None:
        """Remove all jobs."""
        self.jobs.clear()
        self.hold(-self._queued_bytes)
        self._queued_bytes = 0

    def hold(self, size: int) -> None:
        """Add ``size``, which may be negative, to the bytes that are held for messages."""
        self._held_bytes = held = self._held_bytes + size
        if not -_GRANULARITY < held - self._reported_bytes < _GRANULARITY:
            self._reported_bytes = held
            self._websocket.memory_account.set_queued(held)

    def _resume_at_half(self) -> None:
        limits = self._limits
        if (
            len(self.jobs) <= limits.max_queued_messages // 2
            and self._queued_bytes <= limits.max_queued_bytes // 2
        ):
            self._paused = False
            self._websocket.resume()
