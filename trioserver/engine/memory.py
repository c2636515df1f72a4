"""Topics and their subscribers in the memory of this process."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final, Protocol

import attrs
from msgspec import Raw

from protocol import codec
from protocol.messages import Event

MAX_IDLE_TOPICS: Final = 10_000
"""Topics without subscribers whose offsets are kept exactly. Beyond it, the topics that were used
least recently are forgotten."""

MAX_IDLE_CHARACTERS: Final = 1024 * 1024
"""Total characters of the names of these topics, because an application may choose long names."""

_FLOORS: Final = 65_536
"""The number of floors that forgotten topics share, 8 bytes each. With more, fewer are shared."""


class Subscriber(Protocol):
    """A subscriber of topics. Subscribers are distinguished by identity."""

    def deliver(self, event: bytes) -> None:
        """Send an event, encoded by the engine's ``encode``. It must neither block nor raise."""


@attrs.define
class _Topic:
    offset: int
    subscribers: dict[Subscriber, None] = attrs.field(factory=dict)


class MemoryEngine:
    """The subscribers of each topic, and the offset of its last event, for one process.

    The first event of a topic has offset 1, and each later one is 1 higher, also while there are no
    subscribers. Offsets are kept for each topic with subscribers, and for the `MAX_IDLE_TOPICS`
    others that were used most recently. See `_Forgotten` for the rest.

    ``encode`` encodes an event, once for all subscribers.
    """

    def __init__(self, encode: Callable[[Event], bytes] = codec.encode) -> None:
        self._encode = encode
        self._topics: dict[str, _Topic] = {}
        self._idle: dict[str, int] = {}  # the offsets of the others; least recently used first
        self._idle_characters = 0
        self._forgotten = _Forgotten()

    def __len__(self) -> int:
        """The number of topics with subscribers."""
        return len(self._topics)

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Deliver events of ``topic`` to ``subscriber``; a second call changes nothing."""
        entry = self._topics.get(topic)
        if entry is None:
            entry = self._topics[topic] = _Topic(self._wake(topic))
        entry.subscribers[subscriber] = None

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Stop delivering events of ``topic``; does nothing if it was not subscribed."""
        entry = self._topics.get(topic)
        if entry is not None:
            entry.subscribers.pop(subscriber, None)
            if not entry.subscribers:
                del self._topics[topic]
                self._put_to_sleep(topic, entry.offset)

    def publish(self, topic: str, data: Raw) -> int:
        """Deliver an event to all subscribers of ``topic``, and return its offset."""
        entry = self._topics.get(topic)
        if entry is None:
            offset = self._wake(topic) + 1
            self._put_to_sleep(topic, offset)
            return offset
        entry.offset = offset = entry.offset + 1
        event = self._encode(Event(topic=topic, offset=offset, data=data))
        for subscriber in tuple(entry.subscribers):
            subscriber.deliver(event)
        return offset

    def _wake(self, topic: str) -> int:
        """Return the last offset of a topic that had no subscribers; 0 for a new topic."""
        offset = self._idle.pop(topic, None)
        if offset is None:
            return self._forgotten.floor(topic)
        self._idle_characters -= len(topic)
        return offset

    def _put_to_sleep(self, topic: str, offset: int) -> None:
        if offset <= self._forgotten.floor(topic):
            return  # there was no event since the topic was last forgotten
        idle = self._idle
        idle[topic] = offset
        self._idle_characters += len(topic)
        while len(idle) > MAX_IDLE_TOPICS or self._idle_characters > MAX_IDLE_CHARACTERS:
            oldest = next(iter(idle))
            self._forgotten.add(oldest, idle.pop(oldest))
            self._idle_characters -= len(oldest)


class _Forgotten:
    """A lower bound (floor) for the offsets of forgotten topics, in bounded memory.

    Topics share floors, by a hash that is secret to the process. A topic that is used again
    continues above its floor. So offsets never decrease, and a missed event always shows as a gap.
    If topics share a floor, there may also be a gap although nothing was missed.
    """

    def __init__(self) -> None:
        self._floors: array[int] | None = None  # made with the first

    def add(self, topic: str, offset: int) -> None:
        """Forget a topic whose last event had this offset."""
        if self._floors is None:
            self._floors = array("Q", bytes(8 * _FLOORS))
        index = hash(topic) % _FLOORS
        self._floors[index] = max(self._floors[index], offset)

    def floor(self, topic: str) -> int:
        """Return an offset that no event of the forgotten topic exceeded."""
        return 0 if self._floors is None else self._floors[hash(topic) % _FLOORS]
