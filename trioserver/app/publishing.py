"""Events on their way to the subscribers of a topic: encoded once, and never too large to send."""

from __future__ import annotations

import sys
from typing import Any, Final
from weakref import WeakKeyDictionary

from protocol import TooBigToSendError, codec, raw
from protocol.fields import MAX_SAFE_INTEGER
from protocol.messages import Event
from trioserver.engine.memory import MemoryEngine
from trioserver.websocket.headers import encode_text
from trioserver.websocket.memory import shared

_EVENT_BYTES: Final = 64
"""Upper bound for the size of an event without its data and its topic. Each character of a topic is
at most six bytes of JSON."""


class Publisher:
    """Publishes events to the topics of an ``engine``, within the limits of the servers."""

    def __init__(self) -> None:
        self.engine = MemoryEngine(_event_frame)
        self._limits: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        self.max_message_bytes = sys.maxsize
        """The smallest of the servers' limits."""

    def limit_messages(self, server: object, max_bytes: int) -> None:
        """Note that ``server`` sends no message larger than ``max_bytes``, while it exists."""
        self._limits[server] = max_bytes
        self.max_message_bytes = min(self._limits.values())

    def publish(self, topic: str, data: Any) -> int:
        """Send ``data`` to all subscribers of ``topic``, and return the event's offset.

        Raises `TypeError` or `ValueError` for data that JSON cannot express, and
        `protocol.TooBigToSendError` for an event over the limit.
        """
        event = raw(data)
        if len(event) + 6 * len(topic) + _EVENT_BYTES > self.max_message_bytes:
            size = len(codec.encode(Event(topic=topic, offset=MAX_SAFE_INTEGER, data=event)))
            if size > self.max_message_bytes:
                raise TooBigToSendError(size, self.max_message_bytes)
        return self.engine.publish(topic, event)


def _event_frame(event: Event) -> bytes:
    """Encode an event as a frame. A server's frames are not masked, so all subscribers share it."""
    return shared(encode_text(codec.encode(event)))
