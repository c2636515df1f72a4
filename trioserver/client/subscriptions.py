"""`Subscription`: iterates over the events of topics, across reconnects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol

import trio

from protocol import ClientProtocol, Id
from trioserver.client.errors import ClientError, RequestRejectedError
from trioserver.client.subscribers import Event, Subscriber, SubscriberRegistry

MAX_TOPICS: Final = 100
"""Topics in one message; see `protocol.fields.Topics`."""

UNSUBSCRIBE_TIMEOUT: Final = 5.0
"""Seconds that leaving a subscription waits for the server's answer."""


class SendRequest(Protocol):
    """Sends a request on a READY connection and waits for the answer, within a deadline."""

    async def __call__(
        self,
        name: str,
        send: Callable[[ClientProtocol], Id],
        *,
        before: Callable[[], object],
    ) -> object:
        """``name`` is for errors; ``before`` is called immediately before sending."""


class Subscription:
    """``async with client.subscribe("news") as events: async for event in events: ...``

    Entering waits until the server has accepted the subscription, and raises
    `RequestRejectedError`, `RequestTimeoutError` or `ConnectionLostError`. Iteration continues over
    reconnects. It raises `BufferOverflowError` if events were dropped because they were not
    consumed in time, `RequestRejectedError` if the server rejects the subscription after a
    reconnect, `ConnectionLostError` if the client has given up, and `msgspec.ValidationError` for
    data that does not match ``payload``. It ends when the server has closed normally.
    """

    def __init__(
        self,
        request: SendRequest,
        registry: SubscriberRegistry,
        topics: tuple[str, ...],
        *,
        payload: Any,
    ) -> None:
        if not 0 < len(topics) <= MAX_TOPICS:
            raise ValueError(f"{len(topics)} topics; a subscription has 1 to {MAX_TOPICS}")
        self.topics = frozenset(topics)
        self._request = request
        self._registry = registry
        self._payload = payload
        self._subscriber = Subscriber(self.topics)

    async def __aenter__(self) -> Subscription:
        try:
            await self._request(
                "subscribe",
                lambda protocol: protocol.subscribe(*self.topics),
                before=lambda: self._registry.add(self._subscriber),
            )
        except RequestRejectedError:  # the server has no subscription that must be undone
            self._registry.remove(self._subscriber)
            raise
        except BaseException:
            self._registry.unsubscribe(self._subscriber)
            raise
        return self

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._subscriber.get(self._payload)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pending = self._registry.unsubscribe(self._subscriber)
        if pending is not None:
            with trio.move_on_after(UNSUBSCRIBE_TIMEOUT), suppress(ClientError):
                await pending.wait()
