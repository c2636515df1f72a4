"""Delivers events to the subscriptions of a client, across its connections."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any, Final

import attrs

from protocol import messages
from protocol.messages import Error
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ClientError, RequestRejectedError, iteration_error
from trioserver.client.pending import PendingRequest, UnawaitedRequest, decode
from trioserver.client.receive_buffer import ReceiveBuffer
from trioserver.client.requests import RequestTracker

EVENTS_BYTES: Final = 1024 * 1024
"""Bytes of events that wait for one subscription. A slow subscription must not delay the others,
therefore further events are dropped and `BufferOverflowError` says how many."""


@attrs.frozen
class Event:
    """A published event. ``offset`` counts the events of this topic, from 1.

    ``gap`` is True if the connection was lost before this event, so that events may be missing.
    """

    topic: str
    offset: int
    data: Any
    gap: bool = False


class Subscriber:
    """The topics of one subscription and the events that wait for it."""

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self._gap = False
        self._buffer: ReceiveBuffer[tuple[messages.Event, bool]] = ReceiveBuffer(
            max_bytes=EVENTS_BYTES
        )

    async def get(self, payload: Any) -> Event:
        """Wait for the next event; its data is decoded as ``payload``.

        Raises `trio.EndOfChannel` at a normal end, and what `Subscription` raises when iterated.
        """
        event, gap = await self._buffer.get()
        return Event(event.topic, event.offset, decode(event.data, payload), gap)

    def deliver(self, event: messages.Event, size: int) -> None:
        """Buffer an event, or drop it if the buffer is full."""
        if self._buffer.put((event, self._gap), size):
            self._gap = False

    def subscribe_again(self, requests: RequestTracker) -> None:
        """Subscribe on a new connection. The next event is marked with ``gap``."""
        self._gap = True
        request = UnawaitedRequest(self._reject)
        try:
            requests.begin(lambda protocol: protocol.subscribe(*self.topics), request)
        except RequestRejectedError as error:
            rejected = error
            self._buffer.close(lambda: rejected)

    def _reject(self, error: Error) -> None:
        self._buffer.close(lambda: RequestRejectedError.from_error(error))

    def close(self, reason: CloseReason) -> None:
        """End the iteration: the client has ended."""
        self._buffer.close(iteration_error(reason))


class SubscriberRegistry:
    """All subscribers of a client. They outlive a connection."""

    def __init__(self) -> None:
        self._subscribers: dict[Subscriber, None] = {}
        self._topics: Counter[str] = Counter()
        self._requests: RequestTracker | None = None

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: Subscriber) -> None:
        """Deliver events to this subscriber from now on."""
        self._subscribers[subscriber] = None
        self._topics.update(subscriber.topics)

    def remove(self, subscriber: Subscriber) -> frozenset[str]:
        """Deliver no more events to it. Returns the topics that no other subscriber has."""
        if subscriber not in self._subscribers:
            return frozenset()
        del self._subscribers[subscriber]
        self._topics.subtract(subscriber.topics)
        self._topics = +self._topics
        return subscriber.topics - self._topics.keys()

    def unsubscribe(self, subscriber: Subscriber) -> PendingRequest | None:
        """Remove a subscriber, and unsubscribe from the topics that no other subscriber has.

        Returns the pending `unsubscribe`, None if the server need not be told.
        """
        unused = self.remove(subscriber)
        if self._requests is None or not unused:
            return None
        request = PendingRequest()
        with suppress(ClientError):
            self._requests.begin(lambda protocol: protocol.unsubscribe(*unused), request)
            return request
        return None

    def deliver(self, event: messages.Event, size: int) -> None:
        """Deliver an event to all subscribers of its topic."""
        if event.topic in self._topics:
            for subscriber in self._subscribers:
                if event.topic in subscriber.topics:
                    subscriber.deliver(event, size)

    def connected(self, requests: RequestTracker) -> None:
        """Subscribe to everything again, on a connection that is READY now."""
        self._requests = requests
        for subscriber in self._subscribers:
            subscriber.subscribe_again(requests)

    def disconnected(self) -> None:
        """There is no READY connection any more."""
        self._requests = None

    def close(self, reason: CloseReason) -> None:
        """End all iterations: the client has ended."""
        self._requests = None
        for subscriber in self._subscribers:
            subscriber.close(reason)
