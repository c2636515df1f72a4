"""Messages about topics, as the hub sends them. The wire protocol does not have them yet.

They become part of `protocol.messages` when subscriptions take positions.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Raw, Struct


class _TopicMessage(Struct, frozen=True, omit_defaults=True, tag_field="type"):
    pass


class Event(_TopicMessage, frozen=True, tag="event"):
    """A published event. ``offset`` counts the events of this topic, from 1.

    ``mark`` is there when it is another than the one that this subscriber was told last: offsets
    mean the same events only together with their mark.
    """

    topic: str
    offset: int
    data: Raw
    mark: str | None = None


class Missed(_TopicMessage, frozen=True, tag="missed"):
    """Events of a topic up to ``offset`` were not received and are lost for this subscriber.

    ``why`` is ``epoch``, ``forked``, ``trimmed`` or ``many``.
    """

    topic: str
    why: str
    offset: int
    mark: str


class TopicsStale(_TopicMessage, frozen=True, tag="topics_stale"):
    """Since ``since`` no events can arrive, because the engine is away. Subscriptions stay."""

    since: str


class TopicsLive(_TopicMessage, frozen=True, tag="topics_live"):
    """Events arrive again; what was missed has been sent before this, or said in `missed`."""


TopicMessage: TypeAlias = Event | Missed | TopicsStale | TopicsLive
