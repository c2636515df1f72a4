"""The topics of this node: who subscribes to them, and their last events.

The engine says what happened in a topic; the hub tells its subscribers. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs
from msgspec import Raw

from protocol import codec
from protocol.times import instant
from trioserver.engine.history import History
from trioserver.engine.messages import Event, Missed, TopicMessage, TopicsLive, TopicsStale
from trioserver.engine.position import Page, Position, Resumed, TopicState, Why
from trioserver.engine.tail import Tail

MAX_RESUME_EVENTS: Final = 1_000
MAX_RESUME_BYTES: Final = 1024 * 1024
"""What one subscription gets of the events that it missed; beyond it, ``many``."""


MAX_TAIL_BYTES: Final = 128 * 1024 * 1024
"""Bytes of all tails; beyond it, the topics that were published to least recently lose theirs."""

MAX_LINEAGES: Final = 16
"""Past lineages that a node remembers of a topic."""


class Subscriber(Protocol):
    """A recipient of events. Subscribers are told apart by identity."""

    def deliver(self, frame: bytes) -> None:
        """Send an encoded message. It must neither block nor raise."""


@attrs.define(eq=False)
class Topic:
    """A topic that this node follows.

    ``is_live`` is False until its state is known, and while events are missing that are being read.
    """

    name: str
    tail: Tail | None
    epoch: str = ""
    lineage: str = ""
    top: int = 0
    past: list[tuple[str, int]] = attrs.field(factory=list)
    is_live: bool = False
    subscribers: dict[Subscriber, None] = attrs.field(factory=dict, repr=False)

    @property
    def is_known(self) -> bool:
        """Whether the topic's position is known."""
        return self.epoch != ""

    @property
    def mark(self) -> str:
        return f"{self.epoch}.{self.lineage}"

    @property
    def position(self) -> Position:
        return Position(self.top, self.mark)

    @property
    def state(self) -> TopicState:
        """The state as far as this node has the events."""
        first = self.top + 1 - (0 if self.tail is None else len(self.tail))
        return TopicState(self.epoch, self.lineage, self.top, first, tuple(self.past))

    def adopt(self, state: TopicState) -> None:
        """Go on from a state of the engine, whatever was known before."""
        self.epoch, self.lineage, self.top = state.epoch, state.lineage, state.top
        self.past = list(state.past)


class Hub:
    """The topics of a node by name, each with its subscribers.

    ``encode`` makes of a message the frame that subscribers get, once for all of them.
    ``history_of`` says what is kept of a topic; of one without history there is no tail.
    """

    def __init__(
        self,
        encode: Callable[[TopicMessage], bytes] = codec.encode,
        history_of: Callable[[str], History | None] = lambda topic: None,
        *,
        max_tail_bytes: int = MAX_TAIL_BYTES,
    ) -> None:
        self._encode = encode
        self._history_of = history_of
        self.topics: dict[str, Topic] = {}
        self._subscribers: dict[Subscriber, int] = {}  # to how many topics each subscribes
        self._tails: dict[Topic, None] = {}  # those with frames, least recently published first
        self._tail_bytes = 0
        self._max_tail_bytes = max_tail_bytes
        self._stale: bytes | None = None

    def open(self, name: str, *, tail_events: int | None = None) -> Topic:
        """Return the topic of this name, made if it is not there. A tail has at most
        ``tail_events``, by default as many as its history."""
        topic = self.topics.get(name)
        if topic is None:
            history = self._history_of(name)
            tail = None
            if history is not None:
                events = history.events if tail_events is None else min(history.events, tail_events)
                tail = Tail(events, history.bytes)
            topic = self.topics[name] = Topic(name, tail)
        return topic

    def close(self, topic: Topic) -> None:
        """Forget a topic without subscribers."""
        if not topic.subscribers and self.topics.get(topic.name) is topic:
            del self.topics[topic.name]
            self.drop_tail(topic)

    def drop_tail(self, topic: Topic) -> None:
        """Forget the last events of a topic."""
        if topic.tail is not None:
            self._tail_bytes -= topic.tail.size
            topic.tail.clear()
            self._tails.pop(topic, None)

    def attach(self, topic: Topic, subscriber: Subscriber) -> None:
        """Deliver the events of the topic to ``subscriber`` from now on; twice changes nothing."""
        if subscriber in topic.subscribers:
            return
        topic.subscribers[subscriber] = None
        number = self._subscribers.get(subscriber, 0)
        self._subscribers[subscriber] = number + 1
        if number == 0 and self._stale is not None:
            subscriber.deliver(self._stale)

    def detach(self, topic: Topic, subscriber: Subscriber) -> None:
        """Deliver no more events of the topic; for one that did not subscribe nothing changes."""
        if subscriber not in topic.subscribers:
            return
        del topic.subscribers[subscriber]
        number = self._subscribers.pop(subscriber)
        if number > 1:
            self._subscribers[subscriber] = number - 1

    def publish(self, topic: Topic, lineage: str, data: bytes | Raw) -> None:
        """Deliver the next event of a topic, whose offset is one above the last."""
        mark = None
        if lineage != topic.lineage:
            topic.past.append((topic.lineage, topic.top))
            del topic.past[:-MAX_LINEAGES]
            topic.lineage = lineage
            mark = topic.mark
        topic.top += 1
        frame = self.frame(topic.name, topic.top, data, mark)
        if topic.tail is not None:
            self._keep(topic, topic.tail, frame)
        for subscriber in tuple(topic.subscribers):
            subscriber.deliver(frame)

    def miss(self, topic: Topic, why: Why, state: TopicState) -> None:
        """Tell the subscribers that events are lost for them, and go on from ``state``."""
        topic.adopt(state)
        self.drop_tail(topic)
        if topic.subscribers:
            frame = self._encode(Missed(topic.name, why, state.top, topic.mark))
            for subscriber in tuple(topic.subscribers):
                subscriber.deliver(frame)

    def fill(self, topic: Topic, page: Page) -> None:
        """Make a page of the history the tail of a topic that has no position yet."""
        topic.adopt(page.state)
        if topic.tail is not None and page.is_last:
            for offset, data in enumerate(page.events, page.first):
                self._keep(topic, topic.tail, self.frame(topic.name, offset, data))

    def resume(self, topic: Topic, since: Position | None) -> Resumed | None:
        """Return what a subscriber at ``since`` has missed; None if this node cannot tell: events
        are no longer in the tail, or the subscriber is ahead of this node."""
        if since is None:
            return Resumed(topic.position, recovered=False, why="new")
        if topic.state.check_since(since) != "ok":
            return None
        return self.resumed(topic, self.frames_after(topic, since.offset) or ())

    def frames_after(self, topic: Topic, offset: int) -> tuple[bytes, ...] | None:
        """The frames of all events after an offset; None if this node has not all of them."""
        missed = topic.top - offset
        if missed == 0:
            return ()
        if missed < 0 or topic.tail is None or missed > len(topic.tail):
            return None
        return topic.tail.newest(missed)

    def resumed(self, topic: Topic, frames: tuple[bytes, ...]) -> Resumed:
        """A resume with all frames up to the topic's position, or ``many``."""
        if len(frames) > MAX_RESUME_EVENTS or sum(map(len, frames)) > MAX_RESUME_BYTES:
            return Resumed(topic.position, recovered=False, why="many")
        return Resumed(topic.position, recovered=True, why="ok", frames=frames)

    def frame(self, name: str, offset: int, data: bytes | Raw, mark: str | None = None) -> bytes:
        """The frame of an event."""
        body = data if isinstance(data, Raw) else Raw(data)
        return self._encode(Event(topic=name, offset=offset, data=body, mark=mark))

    def set_stale(self, since: float) -> None:
        """Tell each subscriber, once, that the engine is away. ``since`` is wall-clock time."""
        if self._stale is None:
            self._stale = self._encode(TopicsStale(instant(since)))
            self._tell(self._subscribers, self._stale)

    def set_live(self) -> None:
        """Tell each subscriber that was told it is stale that events arrive again."""
        if self._stale is not None:
            self._stale = None
            self._tell(self._subscribers, self._encode(TopicsLive()))

    def _keep(self, topic: Topic, tail: Tail, frame: bytes) -> None:
        before = tail.size
        tail.append(frame)
        self._tail_bytes += tail.size - before
        self._tails.pop(topic, None)
        self._tails[topic] = None
        while self._tail_bytes > self._max_tail_bytes:
            self.drop_tail(next(iter(self._tails)))

    def _tell(self, subscribers: Iterable[Subscriber], frame: bytes) -> None:
        for subscriber in tuple(subscribers):
            subscriber.deliver(frame)
