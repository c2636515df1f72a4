"""Handles `subscribe`, `unsubscribe` and `publish`, as far as the application permits."""

from __future__ import annotations

from typing import Any, TypeAlias

from protocol import Refusal
from protocol.messages import Publish, Subscribe, Unsubscribe
from trioserver.app.functions import call
from trioserver.lifecycle.server_connection import ServerConnection

TopicRequest: TypeAlias = Subscribe | Unsubscribe | Publish


async def run_topics(connection: ServerConnection, request: TopicRequest) -> Any:
    """Do what is requested, and return the result.

    Raises `Refusal`, and what ``allow_subscribe`` and ``allow_publish`` raise.
    """
    match request:
        case Publish():
            return await _publish(connection, request)
        case Subscribe():
            await _subscribe(connection, _topics(request))
        case Unsubscribe():
            for topic in _topics(request):
                connection.unsubscribe(topic)
    return None


async def _publish(connection: ServerConnection, request: Publish) -> dict[str, int]:
    if not await call(connection.route.may_publish, connection.facade, request.topic):
        raise Refusal("forbidden", "Publishing to this topic is not allowed.")
    return {"offset": connection.application.publish(request.topic, request.data)}


async def _subscribe(connection: ServerConnection, topics: tuple[str, ...]) -> None:
    """Subscribe to all of the topics or none, because the answer does not name topics."""
    for topic in topics:
        if not await call(connection.route.may_subscribe, connection.facade, topic):
            raise Refusal("forbidden", "Subscribing to this topic is not allowed.")
    most = connection.protocol.options.max_subscriptions
    if len(connection.topics.keys() | set(topics)) > most:
        raise Refusal("too_many_in_flight", "Too many subscriptions.")
    for topic in topics:
        connection.subscribe(topic)


def _topics(request: Subscribe | Unsubscribe) -> tuple[str, ...]:
    topics = request.topics or request.events
    if not topics:
        raise Refusal("invalid_payload", "`topics` is missing.")
    return topics
