"""The engine that several processes share: Valkey or Redis gives events their order."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
import trio
from msgspec import Raw

from protocol import codec
from trioserver.engine.errors import (
    EngineConfigurationError,
    EngineUnavailableError,
    WrongThreadError,
)
from trioserver.engine.history import History
from trioserver.engine.hub import MAX_RESUME_EVENTS, Hub, Subscriber, Topic
from trioserver.engine.messages import TopicMessage
from trioserver.engine.position import Page, Position, Resumed
from trioserver.engine.valkey.address import EngineAddress
from trioserver.engine.valkey.heartbeats import Heartbeats
from trioserver.engine.valkey.link import LinkLost, ServerError
from trioserver.engine.valkey.login import open_link
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.publisher import Publisher
from trioserver.engine.valkey.topic_reader import TopicReader

PATIENCE: Final = 2.0
"""Seconds that a call waits for an engine that is away, and subscribers are not told of it. It
hides a restart and most failovers."""

SUBSCRIBE_TIMEOUT: Final = 10.0
"""Seconds that a subscription may take while the engine is there: many may be new at once."""

KEEP_IDLE: Final = 2.0
"""Seconds that a topic is followed after its last subscriber left."""

_FIRST_DELAY: Final = 0.05
_MAX_DELAY: Final = 1.0

_log: Final = structlog.get_logger("trioserver")


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
        self._address = address
        self.node = node or secrets.token_hex(8)
        self._names = Names(prefix)
        self._wall_clock = wall_clock
        self.hub = Hub(encode, history_of)
        self._reader = TopicReader(self.hub, self._names, _new_epoch)
        self._publisher = Publisher(self._names, history_of, _new_epoch)
        self._heartbeats = Heartbeats(self.node, self._names)
        self._reader.on_channel[self._heartbeats.channel] = self._heartbeats.heard
        self._up = trio.Event()
        self._away_since: float | None = None  # trio's clock; None while all topics are live
        self._idle: dict[Topic, float] = {}
        self._thread: int | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._told: str | None = None
        self.links_lost = 0

    @property
    def away_since(self) -> float | None:
        """The time of `trio.current_time` at which the engine was lost; None while it is there."""
        return self._away_since

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
        self._thread, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        self._away_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._release_idle)
            nursery.start_soon(self._tell_if_stale)
            await self._keep_links(task_status)

    async def publish(
        self, topic: str, data: Raw, *, key: str | None = None, history: bool = True
    ) -> Position:
        """Publish an event and return its position, once the engine has it.

        With ``key``, the event is published once however often this is called with it. Raises
        `EngineUnavailableError` after at most 2 s; its ``sent`` says whether it may have been
        published. If it is cancelled, it may have been published or not.
        """
        self._check_thread("publish")
        sent = False
        with trio.move_on_after(PATIENCE):
            while True:
                await self._wait_until_up(sent)
                before, sent = sent, True
                try:
                    return await self._publisher.publish(topic, data, key, history)
                except LinkLost as lost:
                    sent = before or lost.sent
                    if sent and key is None:
                        raise EngineUnavailableError(lost.reason, sent=True) from lost
                    await trio.sleep(_FIRST_DELAY)
                except ServerError as error:
                    raise EngineUnavailableError(
                        f"the engine answered {error.code}", sent=before
                    ) from error
        raise EngineUnavailableError("the engine did not answer in time", sent=sent)

    def publish_nowait(self, topic: str, data: Raw) -> None:
        """Publish an event if the engine can take it now: at most once, without an answer.

        It may be called from any thread. What cannot be sent is dropped, counted and logged.
        """
        if threading.get_ident() == self._thread or self._token is None:
            self._publisher.publish_nowait(topic, data)
        else:
            self._token.run_sync_soon(self._publisher.publish_nowait, topic, data)

    async def subscribe(
        self, topic: str, subscriber: Subscriber, since: Position | None = None
    ) -> Resumed:
        """Deliver the events of a topic to ``subscriber``, from the returned position on.

        No event is delivered before the caller's next checkpoint, so that ``frames`` can be sent
        first. Raises `EngineUnavailableError` if the engine is needed for it and is away for 2 s,
        or did not answer within 10 s. If it is cancelled, nothing is delivered.
        """
        self._check_thread("subscribe")
        with trio.move_on_after(SUBSCRIBE_TIMEOUT):
            followed = await self._reader.follow(topic)
            resumed = self.hub.resume(followed, since)
            if resumed is None:
                assert since is not None
                followed, resumed = await self._resume_from_history(topic, since)
            self.hub.attach(followed, subscriber)
            self._idle.pop(followed, None)
            return resumed
        raise EngineUnavailableError("the engine did not answer in time", sent=False)

    def unsubscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Deliver no more events of a topic."""
        followed = self.hub.topics.get(topic)
        if followed is not None:
            self.hub.detach(followed, subscriber)

    async def history(self, topic: str, since: Position | None = None) -> Page:
        """A page of a topic's history, after ``since`` or from the oldest event that is kept.

        Raises `EngineUnavailableError` after at most 2 s.
        """
        try:
            with trio.fail_after(PATIENCE):
                while True:
                    await self._wait_until_up()
                    try:
                        if since is None:
                            page = await self._reader.read(topic, "", 0)
                            since = Position(page.state.first - 1, page.state.position.mark)
                        return await self._reader.read(topic, since.epoch, since.offset)
                    except LinkLost:
                        await trio.sleep(_FIRST_DELAY)
        except trio.TooSlowError:
            raise EngineUnavailableError("the engine did not answer in time", sent=False) from None

    async def _resume_from_history(self, name: str, since: Position) -> tuple[Topic, Resumed]:
        """Read what the tail does not have, until the tail goes on from there."""
        frames: list[bytes] = []
        seen = since
        while True:
            await self._wait_until_up()
            try:
                page = await self._reader.read(name, seen.epoch, seen.offset)
            except LinkLost:
                await trio.sleep(_FIRST_DELAY)
                continue
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
                await trio.sleep(_FIRST_DELAY)

    async def _wait_until_up(self, sent: bool = False) -> None:
        since = self._away_since
        if since is not None:
            with trio.move_on_at(since + PATIENCE):
                await self._up.wait()
        if not self._up.is_set():
            raise EngineUnavailableError("the engine is away", sent=sent)

    async def _keep_links(self, task_status: trio.TaskStatus[None]) -> None:
        delay, has_started = _FIRST_DELAY, False

        def started() -> None:
            nonlocal has_started
            if not has_started:
                has_started = True
                task_status.started()

        while True:
            try:
                await self._use_links(started)
            except* LinkLost as lost:
                self._tell_lost("engine_lost", lost)
            except* EngineConfigurationError as error:
                if not has_started:
                    raise
                self._tell_lost("engine_refused", error)
            if self._up.is_set():
                self._up = trio.Event()
                self._away_since = trio.current_time()
                self.links_lost += 1
                delay = _FIRST_DELAY
            started()
            await trio.sleep(delay * (0.5 + secrets.randbelow(1024) / 1024))
            delay = min(2 * delay, _MAX_DELAY)

    async def _use_links(self, started: Callable[[], None]) -> None:
        name = f"trioserver-{self.node}"
        async with (
            open_link(self._address, name) as (publishing, publishing_server),
            open_link(self._address, name, self._reader.push) as (reading, reading_server),
            trio.open_nursery() as nursery,
        ):
            if publishing_server.lineage != reading_server.lineage:
                raise LinkLost("the two links lead to different servers", sent=False)
            self._publisher.use(publishing, publishing_server.lineage)
            await nursery.start(self._reader.run, reading, reading_server.lineage, self._all_live)
            started()
            await self._heartbeats.run(publishing)

    def _tell_lost(self, event: str, group: BaseExceptionGroup[Exception]) -> None:
        """Log why the engine is away; not each attempt that fails for the same reason."""
        reason = _reason_of(group)
        if reason != self._told:
            self._told = reason
            _log.warning(event, address=str(self._address), reason=reason)

    def _all_live(self) -> None:
        if self._told is not None and self._away_since is not None:
            away = round(trio.current_time() - self._away_since, 3)
            _log.info("engine_back", address=str(self._address), away_seconds=away)
        self._told = None
        self._away_since = None
        self._up.set()
        self.hub.set_live()

    async def _tell_if_stale(self) -> None:
        while True:
            await trio.sleep(0.25)
            since = self._away_since
            if since is not None and trio.current_time() - since >= PATIENCE:
                self.hub.set_stale(self._wall_clock() - (trio.current_time() - since))
                self._reader.give_up()

    async def _release_idle(self) -> None:
        while True:
            await trio.sleep(KEEP_IDLE / 2)
            now = trio.current_time()
            for topic in tuple(self.hub.topics.values()):
                if topic.subscribers:
                    self._idle.pop(topic, None)
                elif now - self._idle.setdefault(topic, now) >= KEEP_IDLE:
                    del self._idle[topic]
                    self._reader.release(topic)

    def _check_thread(self, method: str) -> None:
        if self._thread is not None and threading.get_ident() != self._thread:
            raise WrongThreadError(
                f"{method}() was called from a thread that does not run the server: use "
                "publish_nowait(), which any thread may call, or trio.from_thread.run()"
            )


def _new_epoch() -> str:
    return secrets.token_hex(6)


def _reason_of(group: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
