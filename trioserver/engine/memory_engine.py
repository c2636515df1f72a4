"""The engine of one process: topics in its memory. The default, with nothing to install."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio
from msgspec import Raw

from protocol import codec
from trioserver.engine.history import KEY_SECONDS, History
from trioserver.engine.hub import Hub, Subscriber, Topic
from trioserver.engine.messages import TopicMessage
from trioserver.engine.position import Position, Resumed, new_epochs
from trioserver.engine.threads import EngineThread

MAX_IDLE_TOPICS: Final = 10_000
"""Topics without subscribers that are remembered; beyond it, those that were used least recently
are forgotten, and start again with another mark."""

MAX_IDLE_CHARACTERS: Final = 1024 * 1024
"""Characters of their names, in all: an application may choose long ones."""

MAX_KEYS: Final = 100_000
"""How many keys of publishes are remembered; beyond it, the oldest ones are forgotten."""

_SWEEP: Final = 1.0
_LINEAGE: Final = "0"


@attrs.frozen
class _Kept:
    position: Position
    until: float


class MemoryEngine:
    """Topics of one process.

    The mark of a topic is random for each process, so that a position of another process, or of
    one before a restart, is not taken for one of this: ``epoch``.
    """

    def __init__(
        self,
        *,
        encode: Callable[[TopicMessage], bytes] = codec.encode,
        history_of: Callable[[str], History | None] = lambda topic: None,
    ) -> None:
        self.hub = Hub(encode, history_of)
        self._history_of = history_of
        self._epochs = new_epochs()
        self._idle: dict[Topic, None] = {}  # least recently used first
        self._idle_characters = 0
        self._expires: dict[Topic, float] = {}  # when the history ends; soonest not first
        self._keys: dict[tuple[str, str], _Kept] = {}
        self._thread = EngineThread()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forget histories and keys that are over. Ends only when it is cancelled."""
        self._thread.enter()
        task_status.started()
        while True:
            await trio.sleep(_SWEEP)
            self._sweep(trio.current_time())

    async def publish(
        self, topic: str, data: Raw, *, key: str | None = None, history: bool = True
    ) -> Position:
        """Publish an event and return its position. With ``key`` it is published once, however
        often this is called with it. If it is cancelled, nothing was published."""
        self._thread.check("publish")
        await trio.lowlevel.checkpoint()
        if key is None:
            return self._publish(topic, data, history)
        kept = self._keys.get((topic, key))
        if kept is not None and kept.until > trio.current_time():
            return kept.position
        position = self._publish(topic, data, history)
        self._keys.pop((topic, key), None)  # it goes to the end: they are in the order they end
        while len(self._keys) >= MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[topic, key] = _Kept(position, trio.current_time() + KEY_SECONDS)
        return position

    def publish_nowait(self, topic: str, data: Raw) -> None:
        """Publish an event now, or soon if another thread calls this."""
        self._thread.call(self._publish, topic, data, True)

    async def subscribe(
        self, topic: str, subscriber: Subscriber, since: Position | None = None
    ) -> Resumed:
        """Deliver the events of a topic to ``subscriber``, from the returned position on.

        No event is delivered before the caller's next checkpoint, so that ``frames`` can be sent
        first. If it is cancelled, nothing is delivered.
        """
        self._thread.check("subscribe")
        await trio.lowlevel.checkpoint()
        opened = self._open(topic)
        resumed = self.hub.resume(opened, since)
        if resumed is None:
            assert since is not None
            why = opened.state.check_since(since)
            resumed = Resumed(opened.position, recovered=False, why=why)
        self._wake(opened)
        self.hub.attach(opened, subscriber)
        return resumed

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Deliver no more events of a topic."""
        opened = self.hub.topics.get(topic)
        if opened is not None:
            self.hub.detach(opened, subscriber)
            self._put_to_sleep(opened)

    def _publish(self, name: str, data: Raw, history: bool) -> Position:
        topic = self._open(name)
        self.hub.publish(topic, _LINEAGE, data)
        if topic.tail is not None:
            if history:
                kept = self._history_of(name)
                assert kept is not None
                self._expires[topic] = trio.current_time() + kept.seconds
            else:
                self.hub.drop_tail(topic)
        self._wake(topic)
        self._put_to_sleep(topic)
        return topic.position

    def _open(self, name: str) -> Topic:
        topic = self.hub.open(name)
        if not topic.is_known:
            topic.epoch, topic.lineage = next(self._epochs), _LINEAGE
            topic.is_live = True
        elif topic.tail is not None and self._expires.get(topic, 0.0) <= trio.current_time():
            self.hub.drop_tail(topic)
        return topic

    def _wake(self, topic: Topic) -> None:
        if topic in self._idle:
            del self._idle[topic]
            self._idle_characters -= len(topic.name)

    def _put_to_sleep(self, topic: Topic) -> None:
        """Remember a topic without subscribers, and forget others for it."""
        if topic.subscribers or topic in self._idle:
            return
        idle = self._idle
        idle[topic] = None
        self._idle_characters += len(topic.name)
        while len(idle) > MAX_IDLE_TOPICS or self._idle_characters > MAX_IDLE_CHARACTERS:
            oldest = next(iter(idle))
            self._wake(oldest)
            self._expires.pop(oldest, None)
            self.hub.close(oldest)

    def _sweep(self, now: float) -> None:
        for topic in [topic for topic, end in self._expires.items() if end <= now]:
            del self._expires[topic]
            self.hub.drop_tail(topic)
        for name, kept in tuple(self._keys.items()):
            if kept.until > now:
                break
            del self._keys[name]
