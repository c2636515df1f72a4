"""Subscribing and publishing, as the application permits it."""

from __future__ import annotations

from typing import Any, TypeAlias

from protocol import Refusal
from protocol.messages import Publish, Subscribe, Unsubscribe
from trioserver.app.connection import Connection
from trioserver.app.functions import call

TopicRequest: TypeAlias = Subscribe | Unsubscribe | Publish


async def run_topics(connection: Connection, request: TopicRequest, *, most: int) -> Any:
    """The result of a request about topics; ``most`` of them may be subscribed to.

    Raises `Refusal`, and whatever the application's permissions raise.
    """
    match request:
        case Publish():
            return await _publish(connection, request)
        case Subscribe():
            await _subscribe(connection, _topics(request), most)
        case Unsubscribe():
            for topic in _topics(request):
                connection.unsubscribe(topic)
    return None


async def _publish(connection: Connection, request: Publish) -> dict[str, int]:
    if not await call(connection.route.may_publish, connection, request.topic):
        raise Refusal("forbidden", "Publishing to this topic is not allowed.")
    return {"offset": connection.publish(request.topic, request.data)}


async def _subscribe(connection: Connection, topics: tuple[str, ...], most: int) -> None:
    """All of the topics or none: half a subscription would be told by no answer."""
    for topic in topics:
        if not await call(connection.route.may_subscribe, connection, topic):
            raise Refusal("forbidden", "Subscribing to this topic is not allowed.")
    if len(connection.topics.union(topics)) > most:
        raise Refusal("too_many_in_flight", "Too many subscriptions.")
    for topic in topics:
        connection.subscribe(topic)


def _topics(request: Subscribe | Unsubscribe) -> tuple[str, ...]:
    topics = request.topics or request.events
    if not topics:
        raise Refusal("invalid_payload", "`topics` is missing.")
    return topics
