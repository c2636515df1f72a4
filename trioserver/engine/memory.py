"""Topics in this process's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
from msgspec import Raw

from protocol import codec
from protocol.messages import Event


class Subscriber(Protocol):
    """Whoever hears a topic. Subscribers are told apart by identity."""

    def hear(self, event: bytes) -> None:
        """Take an event, encoded as the engine was told to. It must neither block nor raise."""


@attrs.define
class _Topic:
    offset: int
    subscribers: dict[Subscriber, None] = attrs.field(factory=dict)


class MemoryEngine:
    """Who hears which topic, for one process.

    A topic costs memory only while somebody hears it. Its offsets have no gaps for as long as
    somebody does, and never go back.

    ``encode`` makes of an event what its subscribers take, once for all of them.
    """

    def __init__(self, encode: Callable[[Event], bytes] = codec.encode) -> None:
        self._encode = encode
        self._topics: dict[str, _Topic] = {}
        self._last_offset = -1  # of all topics: where a topic that comes back goes on from

    def __len__(self) -> int:
        return len(self._topics)

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Let ``subscriber`` hear ``topic``; a second time changes nothing."""
        entry = self._topics.setdefault(topic, _Topic(self._last_offset))
        entry.subscribers[subscriber] = None

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Let ``subscriber`` hear ``topic`` no more; one that did not changes nothing."""
        entry = self._topics.get(topic)
        if entry is not None:
            entry.subscribers.pop(subscriber, None)
            if not entry.subscribers:
                del self._topics[topic]

    def publish(self, topic: str, data: Raw) -> int:
        """Tell all who hear ``topic``, and return the event's offset."""
        entry = self._topics.get(topic)
        offset = (self._last_offset if entry is None else entry.offset) + 1
        self._last_offset = max(self._last_offset, offset)
        if entry is not None:
            entry.offset = offset
            event = self._encode(Event(topic=topic, offset=offset, data=data))
            for subscriber in tuple(entry.subscribers):
                subscriber.hear(event)
        return offset
