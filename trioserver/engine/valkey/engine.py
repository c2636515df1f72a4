"""The engine that several processes share: Valkey or Redis gives events their order."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

import trio
from msgspec import Raw

from protocol import codec
from trioserver.engine.errors import EngineUnavailableError
from trioserver.engine.history import History
from trioserver.engine.hub import MAX_RESUME_EVENTS, Hub, Subscriber, Topic
from trioserver.engine.messages import TopicMessage
from trioserver.engine.position import Page, Position, Resumed, new_epochs
from trioserver.engine.threads import EngineThread
from trioserver.engine.valkey.address import EngineAddress
from trioserver.engine.valkey.heartbeats import Heartbeats
from trioserver.engine.valkey.link import LinkLost, ServerError
from trioserver.engine.valkey.links import FIRST_DELAY, PATIENCE, Links
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.publisher import Publisher
from trioserver.engine.valkey.topic_reader import TopicReader

SUBSCRIBE_TIMEOUT: Final = 10.0
"""Seconds that a subscription may take while the engine is there: many may be new at once."""

KEEP_IDLE: Final = 2.0
"""Seconds that a topic is followed after its last subscriber left."""


class ValkeyEngine:
    """Topics of several nodes in one Valkey or Redis server.

    `run` keeps two links to the server. On one the node listens and reads history; on the other it
    publishes and beats, so that a long read delays no publish. If either is lost, both are opened
    anew, and each topic goes on where it was: with the events that were missed, or `missed`.
    """

    def __init__(
        self,
        address: EngineAddress,
        *,
        node: str | None = None,
        prefix: str = "trioserver",
        encode: Callable[[TopicMessage], bytes] = codec.encode,
        history_of: Callable[[str], History | None] = lambda topic: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        names, epochs = Names(prefix), new_epochs()
        self.hub = Hub(encode, history_of)
        self._wall_clock = wall_clock
        self._reader = TopicReader(self.hub, names, epochs)
        self._publisher = Publisher(names, history_of, epochs)
        node = node or secrets.token_hex(8)
        heartbeats = Heartbeats(node, names)
        self._reader.on_channel[heartbeats.channel] = heartbeats.receive
        self._links = Links(
            address,
            node,
            reader=self._reader,
            publisher=self._publisher,
            heartbeats=heartbeats,
            on_live=self.hub.set_live,
            on_stale=self._set_stale,
        )
        self._idle: dict[Topic, float] = {}  # topics without subscribers, longest idle first
        self._thread = EngineThread()

    @property
    def away_since(self) -> float | None:
        """The time of `trio.current_time` at which the engine was lost; None while it is there."""
        return self._links.away_since

    @property
    def links_lost(self) -> int:
        """How often the engine was lost."""
        return self._links.lost

    @property
    def events_dropped(self) -> int:
        """How many events of `publish_nowait` were not sent."""
        return self._publisher.dropped

    @property
    def outstanding(self) -> int:
        """Bytes of publishes that the engine has not answered yet."""
        return self._publisher.outstanding

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links, join topics, beat. Ends only when it is cancelled.

        Has started after the first attempt to reach the server, whatever came of it. Raises
        `EngineConfigurationError` if that attempt shows that trying again does not help.
        """
        self._thread.enter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release_idle)
            await self._links.run(task_status=task_status)

    async def publish(
        self, topic: str, data: Raw, *, key: str | None = None, history: bool = True
    ) -> Position:
        """Publish an event and return its position, once the engine has it.

        With ``key``, the event is published once however often this is called with it. Raises
        `EngineUnavailableError` after at most 2 s; its ``sent`` says whether it may have been
        published. If it is cancelled, it may have been published or not.
        """
        self._thread.check("publish")
        sent = False
        with trio.move_on_after(PATIENCE):
            while True:
                await self._links.wait_up(sent=sent)
                before, sent = sent, True
                try:
                    return await self._publisher.publish(topic, data, key, history)
                except LinkLost as lost:
                    sent = before or lost.sent
                    if sent and key is None:
                        raise EngineUnavailableError(lost.reason, sent=True) from lost
                    await trio.sleep(FIRST_DELAY)
                except ServerError as error:
                    raise EngineUnavailableError(
                        f"the engine answered {error.code}", sent=before
                    ) from error
        raise EngineUnavailableError("the engine did not answer in time", sent=sent)

    def publish_nowait(self, topic: str, data: Raw) -> None:
        """Publish an event if the engine can take it now: at most once, without an answer.

        It may be called from any thread. What cannot be sent is dropped, counted and logged.
        """
        self._thread.call(self._publisher.publish_nowait, topic, data)

    async def subscribe(
        self, topic: str, subscriber: Subscriber, since: Position | None = None
    ) -> Resumed:
        """Deliver the events of a topic to ``subscriber``, from the returned position on.

        No event is delivered before the caller's next checkpoint, so that ``frames`` can be sent
        first. Raises `EngineUnavailableError` if the engine is needed for it and is away for 2 s,
        or did not answer within 10 s. If it is cancelled, nothing is delivered.
        """
        self._thread.check("subscribe")
        try:
            with trio.move_on_after(SUBSCRIBE_TIMEOUT):
                followed = await self._reader.follow(topic)
                resumed = self.hub.resume(followed, since)
                if resumed is None:
                    assert since is not None
                    followed, resumed = await self._resume_from_history(topic, since)
                self.hub.attach(followed, subscriber)
                self._idle.pop(followed, None)
                return resumed
        finally:
            self._note_idle(topic)  # where this has failed, the topic is followed for nobody
        raise EngineUnavailableError("the engine did not answer in time", sent=False)

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Deliver no more events of a topic."""
        followed = self.hub.topics.get(topic)
        if followed is not None:
            self.hub.detach(followed, subscriber)
            self._note_idle(topic)

    async def history(self, topic: str, since: Position | None = None) -> Page:
        """A page of a topic's history, after ``since`` or from the oldest event that is kept.

        Raises `EngineUnavailableError` after at most 2 s.
        """
        with trio.move_on_after(PATIENCE):
            if since is None:
                state = (await self._read_page(topic, "", 0)).state
                since = Position(state.first - 1, state.position.mark)
            return await self._read_page(topic, since.epoch, since.offset)
        raise EngineUnavailableError("the engine did not answer in time", sent=False)

    async def _read_page(self, name: str, epoch: str, after: int) -> Page:
        """Read a page of a topic's history, on a new link if the present one is lost."""
        while True:
            await self._links.wait_up()
            try:
                return await self._reader.read(name, epoch, after)
            except LinkLost:
                await trio.sleep(FIRST_DELAY)

    async def _resume_from_history(self, name: str, since: Position) -> tuple[Topic, Resumed]:
        """Read what the tail does not have, until the tail goes on from there."""
        frames: list[bytes] = []
        seen = since
        while True:
            page = await self._read_page(name, seen.epoch, seen.offset)
            topic = await self._reader.follow(name)  # it may have been released meanwhile
            why = page.state.check_since(seen)
            if why != "ok" or len(frames) > MAX_RESUME_EVENTS:
                why = "many" if why == "ok" else why
                return topic, Resumed(topic.position, recovered=False, why=why)
            frames += [
                self.hub.frame(name, offset, data)
                for offset, data in enumerate(page.events, page.first)
            ]
            seen = Position(page.end, page.state.position.mark)
            # On the link of the read, its answer came behind all events up to its end: a live topic
            # has them. One that is being read anew itself does not yet.
            rest = self.hub.frames_after(topic, seen.offset)
            if rest is not None and topic.is_live:
                return topic, self.hub.resumed(topic, (*frames, *rest))
            if not topic.is_live:
                await trio.sleep(FIRST_DELAY)

    def _set_stale(self, away: float) -> None:
        self.hub.set_stale(self._wall_clock() - away)
        self._reader.give_up()

    def _note_idle(self, name: str) -> None:
        topic = self.hub.topics.get(name)
        if topic is not None and not topic.subscribers:
            self._idle.setdefault(topic, trio.current_time())

    async def _release_idle(self) -> None:
        while True:
            await trio.sleep(KEEP_IDLE / 2)
            now = trio.current_time()
            for topic, since in tuple(self._idle.items()):
                if now - since < KEEP_IDLE:
                    break
                del self._idle[topic]
                if not self._reader.release(topic):
                    self._idle[topic] = now  # a subscription waits for it, and may still fail
