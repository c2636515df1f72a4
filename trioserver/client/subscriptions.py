"""Topics, as whoever hears them sees them; they outlive a connection."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from protocol import messages
from protocol.messages import Error
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import ClientError, RequestRefused, error_of
from trioserver.client.pending import Call, WatchedCall, decode
from trioserver.client.receive_buffer import Inbox

if TYPE_CHECKING:
    from trioserver.client.client import Client
    from trioserver.client.connection import Link

EVENTS_BYTES: Final = 1024 * 1024
"""Events that wait for one subscription. One that is behind must not hold up all the others, so
that beyond it they are gone, and `Overflow` says how many."""

MAX_TOPICS: Final = 100
"""In one message; see `protocol.messages.Topics`."""

UNSUBSCRIBE_TIMEOUT: Final = 5.0
"""Seconds that leaving a subscription waits for the server to know."""


@attrs.frozen
class Event:
    """Something was published. ``offset`` counts the events of this topic, from 1.

    ``gap``: the connection was lost before this one, and events may have been, too.
    """

    topic: str
    offset: int
    data: Any
    gap: bool = False


class Subscription:
    """``async with client.subscribe("news") as events: async for event in events: ...``

    Entering waits for the server's consent, and raises `RequestRefused`, `RequestTimeout`,
    `ConnectionLost`. Iterating goes on over reconnects. It raises `Overflow` where events were not
    taken in time, `RequestRefused` where the server does not consent again after a reconnect,
    `ConnectionLost` when the client has given up, `msgspec.ValidationError` for data that does
    not fit; it ends when the server has closed normally.
    """

    def __init__(self, client: Client, topics: tuple[str, ...], *, payload: Any) -> None:
        if not 0 < len(topics) <= MAX_TOPICS:
            raise ValueError(f"a subscription is to 1 to {MAX_TOPICS} topics")
        self.topics = frozenset(topics)
        self._client = client
        self._payload = payload
        self._gap = False
        self._inbox: Inbox[tuple[messages.Event, bool]] = Inbox(max_bytes=EVENTS_BYTES)

    async def __aenter__(self) -> Subscription:
        subscriptions = self._client._subscriptions
        try:
            await self._client._call(
                "subscribe",
                lambda session: session.subscribe(*self.topics),
                before=lambda: subscriptions.add(self),
            )
        except RequestRefused:  # nothing is subscribed to, so that nothing is to be taken back
            subscriptions.remove(self)
            raise
        except BaseException:
            self._leave()
            raise
        return self

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        try:
            event, gap = await self._inbox.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return Event(event.topic, event.offset, decode(event.data, self._payload), gap)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        call = self._leave()
        if call is not None:
            with trio.move_on_after(UNSUBSCRIBE_TIMEOUT), suppress(ClientError):
                await call.wait()

    def _leave(self) -> Call | None:
        """Hear no more. What no other subscription hears either, the server is told."""
        unused = self._client._subscriptions.remove(self)
        link = self._client._link
        if link is None or not unused:
            return None
        call = Call()
        with suppress(ClientError):
            link.exchange.begin(lambda session: session.unsubscribe(*unused), call)
            return call
        return None

    def _hear(self, event: messages.Event, size: int) -> None:
        if self._inbox.put((event, self._gap), size):
            self._gap = False

    def _refused(self, error: Error) -> None:
        self._inbox.close(lambda: RequestRefused.of(error))

    def _subscribe_again(self, link: Link) -> None:
        self._gap = True
        call = WatchedCall(self._refused)
        try:
            link.exchange.begin(lambda session: session.subscribe(*self.topics), call)
        except RequestRefused as error:
            refused = error
            self._inbox.close(lambda: refused)


class Subscriptions:
    """All subscriptions of a client."""

    def __init__(self) -> None:
        self._all: dict[Subscription, None] = {}
        self._hearers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, subscription: Subscription) -> None:
        """From now on it hears its topics."""
        self._all[subscription] = None
        self._hearers.update(subscription.topics)

    def remove(self, subscription: Subscription) -> frozenset[str]:
        """It hears nothing more; the topics that nobody hears now."""
        if subscription not in self._all:
            return frozenset()
        del self._all[subscription]
        self._hearers.subtract(subscription.topics)
        self._hearers = +self._hearers
        return subscription.topics - self._hearers.keys()

    def hear(self, event: messages.Event, size: int) -> None:
        """Hand an event out."""
        if event.topic in self._hearers:
            for subscription in self._all:
                if event.topic in subscription.topics:
                    subscription._hear(event, size)

    def subscribe_again(self, link: Link) -> None:
        """On a new connection."""
        for subscription in self._all:
            subscription._subscribe_again(link)

    def close(self, reason: CloseReason) -> None:
        """The client has given up, or has finished."""
        for subscription in self._all:
            subscription._inbox.close(error_of(reason))
