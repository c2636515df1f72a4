"""Reads topics: subscriptions, and all reads of history, on one link.

On one link the server's order of an answer and of the pushes around it is kept. So a topic is
joined by SUBSCRIBE and a read behind it: pushes before the answer are part of what was read, pushes
after it go on from there. Nothing has to be buffered or merged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from trioserver.engine.errors import EngineUnavailableError
from trioserver.engine.hub import Hub, Topic
from trioserver.engine.position import Page, TopicState
from trioserver.engine.valkey.link import Link, LinkLost
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.scripts import META_SECONDS, READ

PAGE_BYTES: Final = 128 * 1024
"""Data in one read of a history."""

JOIN_PAGE_BYTES: Final = 16 * 1024
"""Data in one read while topics are joined. It is smaller, because many are joined at a time."""

WINDOW: Final = 384
"""Topics that are joined at the same time. Answers on a link with subscriptions count as output of
a pub/sub client, which the server cuts off at 8 MB for 60 s: with full pages these are 6 MiB.
Events may be larger than a page: each link that is lost while joining makes the window smaller."""

_SMALLEST_WINDOW: Final = 6

TAIL_EVENTS: Final = 256
"""Events that are read of a topic that is new to the node, for subscribers that come back."""

_log: Final = structlog.get_logger("trioserver")


@attrs.define
class TopicReaderStatistics:
    """What was noticed while listening."""

    filled: int = 0
    """Gaps that were filled from the history."""
    missed: int = 0
    """Gaps that could not be filled: subscribers were sent `missed`."""


class TopicReader:
    """Follows the topics of a hub on one link after the other.

    `run` serves one link and joins all topics of the hub on it, those that are new and those that
    had been joined on an earlier link.
    """

    def __init__(self, hub: Hub, names: Names, epochs: Iterator[str]) -> None:
        self._hub = hub
        self._names = names
        self._epochs = epochs
        self._link: Link | None = None
        self._lineage = ""
        self._by_channel: dict[bytes, Topic] = {}
        self._wanted: deque[Topic] = deque()
        self._has_work = trio.Event()
        self._joining = 0
        self._window = WINDOW
        self._waiting: dict[str, trio.Event] = {}
        self._on_joined: Callable[[], None] | None = None
        self.on_channel: dict[bytes, Callable[[bytes], None]] = {}
        """Other channels that this link is subscribed to, with who gets their messages."""
        self.statistics = TopicReaderStatistics()

    async def run(
        self,
        link: Link,
        lineage: str,
        on_joined: Callable[[], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Join topics on ``link`` until cancelled; ``on_joined`` is called once all topics that
        were there at the start are live. Has started when the other channels are subscribed to.
        """
        if self._on_joined is not None:  # the last link was lost while joining
            self._window = max(self._window // 4, _SMALLEST_WINDOW)
        self._link, self._lineage, self._on_joined = link, lineage, on_joined
        self._by_channel.clear()
        self._joining = 0
        for topic in self._hub.topics.values():
            topic.is_live = False
        self._wanted = deque(self._hub.topics.values())
        if self.on_channel:
            link.subscribe(*self.on_channel)
        try:
            await link.call("PING")  # its answer comes behind that of SUBSCRIBE
            task_status.started()
            self._tell_if_joined()
            while True:
                while self._wanted and self._joining < self._window:
                    self._join(link, self._wanted.popleft())
                self._has_work = trio.Event()
                await self._has_work.wait()
        finally:
            self._link = None

    async def follow(self, name: str) -> Topic:
        """Return the topic once its position is known to this node.

        Raises `EngineUnavailableError` if `give_up` is called meanwhile. If it is cancelled, the
        topic may stay without subscribers until `release`.
        """
        while True:
            topic = self._hub.open(name, tail_events=TAIL_EVENTS)
            if topic.is_known:
                return topic
            joined = self._waiting.get(name)
            if joined is None:
                joined = self._waiting[name] = trio.Event()
                self._wanted.append(topic)
                self._has_work.set()
            await joined.wait()
            if not topic.is_known:
                raise EngineUnavailableError("the engine is away", sent=False)

    def give_up(self) -> None:
        """End all waiting for topics: the engine is away."""
        for joined in self._waiting.values():
            joined.set()
        self._waiting.clear()

    def release(self, topic: Topic) -> bool:
        """Follow a topic without subscribers no more.

        Return False, and change nothing, if a subscription waits for it.
        """
        if topic.name in self._waiting:
            return False
        self._hub.close(topic)
        channel = self._names.topic(topic.name)[2]
        if self._by_channel.pop(channel.encode(), None) is not None and self._link is not None:
            self._link.unsubscribe(channel)
        return True

    async def read(self, name: str, epoch: str, after: int) -> Page:
        """Read a page of the events after an offset. Raises `LinkLost`."""
        if self._link is None:
            raise LinkLost("the link is being replaced", sent=False)
        command = self._read_command(name, epoch, after, PAGE_BYTES)
        return _page(await self._link.call(*command), after)

    def push(self, message: list[Any]) -> None:
        """Take a push of the link."""
        if message[0] != b"message":
            return
        channel, payload = message[1], message[2]
        topic = self._by_channel.get(channel)
        if topic is None:
            listener = self.on_channel.get(channel)
            if listener is not None:
                listener(payload)
            return
        if not topic.is_live:
            return  # the answer to a read that is on its way has it
        offset, mark, data = payload.split(b" ", 2)
        number = int(offset)
        if number == topic.top + 1:
            epoch, _, lineage = mark.decode().partition(".")
            if epoch == topic.epoch:
                self._hub.publish(topic, lineage, data)
                return
        elif number <= topic.top and mark.decode() == topic.mark:
            return  # known already
        topic.is_live = False
        self.statistics.filled += 1
        self._joining += 1
        self._read_on(topic)

    def _join(self, link: Link, topic: Topic) -> None:
        if self._hub.topics.get(topic.name) is not topic:
            return  # released meanwhile
        channel = self._names.topic(topic.name)[2]
        self._by_channel[channel.encode()] = topic
        self._joining += 1
        link.subscribe(channel)
        self._read_on(topic)

    def _read_on(self, topic: Topic) -> None:
        link = self._link
        if link is None:
            return
        after = topic.top if topic.is_known else None
        newest = -1 if topic.tail is None else -TAIL_EVENTS
        command = self._read_command(topic.name, topic.epoch, newest if after is None else after)
        link.send(*command, callback=partial(self._take_page, link, topic, topic.epoch, after))

    def _take_page(
        self, link: Link, topic: Topic, epoch: str, after: int | None, reply: Any
    ) -> None:
        """Take the answer to a read of the events after an offset; None: of the newest ones."""
        if link is not self._link:
            return
        page = _page(reply, after)
        if topic.is_known and (epoch, after) != (topic.epoch, topic.top):
            # Two reads were on their way, as for a topic that was wanted twice. The page does not
            # go on from here any more.
            if not topic.is_live:
                self._read_on(topic)
                return
        elif not topic.is_known:
            self._hub.fill(topic, page)
        elif (why := page.state.check_since(topic.position)) == "ok":
            for data in page.events:
                lineage = page.state.lineage_of(topic.top + 1)
                self._hub.publish(topic, lineage, data)
            if not page.is_last:
                self._read_on(topic)
                return
        else:
            self.statistics.missed += 1
            self._hub.miss(topic, why, page.state)
        topic.is_live = True
        self._joining -= 1
        self._has_work.set()
        if (joined := self._waiting.pop(topic.name, None)) is not None:
            joined.set()
        self._tell_if_joined()

    def _tell_if_joined(self) -> None:
        if self._on_joined is not None and not self._wanted and not self._joining:
            self._window = WINDOW
            tell, self._on_joined = self._on_joined, None
            tell()

    def _read_command(
        self, name: str, epoch: str, after: int, most: int = JOIN_PAGE_BYTES
    ) -> tuple[str | int, ...]:
        events, state, _ = self._names.topic(name)
        return (
            *("EVALSHA", READ.digest, 2, events, state),
            *(epoch, after, most, next(self._epochs), self._lineage, META_SECONDS),
        )


def _page(reply: list[Any], after: int | None) -> Page:
    """The answer of the script `READ`."""
    epoch, lineage, top, past, first, *events = reply
    state = TopicState(epoch.decode(), lineage.decode(), int(top), int(first), _past(past))
    newest = state.top - len(events) + 1
    start = newest if after is None else max(after + 1, state.first)
    return Page(state, start, tuple(events))


def _past(text: bytes) -> tuple[tuple[str, int], ...]:
    pairs = (entry.rpartition(":") for entry in text.decode().split())
    return tuple((name, int(end)) for name, _, end in pairs)
