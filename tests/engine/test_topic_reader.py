"""How a node joins its topics, on a link that records what is sent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, cast

import attrs
import pytest
import trio

from tests.engine.listener import Listener
from trioserver.engine.errors import EngineUnavailableError
from trioserver.engine.history import History
from trioserver.engine.hub import Hub
from trioserver.engine.position import Position
from trioserver.engine.valkey.link import Link, LinkLost
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.topic_reader import TAIL_EVENTS, TopicReader


@attrs.define
class RecordingLink:
    """Takes commands; the test answers them in their order."""

    reads: list[Callable[[Any], None]] = attrs.field(factory=list)
    commands: list[tuple[Any, ...]] = attrs.field(factory=list)
    channels: list[str] = attrs.field(factory=list)

    def subscribe(self, *channels: str) -> None:
        self.channels += channels

    def unsubscribe(self, *channels: str) -> None:
        for channel in channels:
            self.channels.remove(channel)

    def send(self, *command: Any, callback: Callable[[Any], None]) -> None:
        self.commands.append(command)
        self.reads.append(callback)

    async def call(self, *command: Any) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"PONG"

    def answer(self, top: int, *events: bytes) -> None:
        """Answer the oldest read."""
        self.reads.pop(0)([b"e", b"l", top, b"", 1, *events])


def make_reader() -> tuple[TopicReader, Hub]:
    hub = Hub(history_of=lambda topic: History())
    return TopicReader(hub, Names("p"), repeat("e")), hub


async def joined(nursery: trio.Nursery, reader: TopicReader, link: RecordingLink) -> None:
    await nursery.start(reader.run, cast(Link, link), "l", lambda: None)


async def test_topic_that_is_read_twice_delivers_no_event_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader, hub = make_reader()
    link, listener = RecordingLink(), Listener()
    async with trio.open_nursery() as nursery:
        await joined(nursery, reader, link)
        with trio.move_on_after(1):
            await reader.follow("t")
        reader.give_up()  # the engine is away for a while, and who waited is told
        nursery.start_soon(reader.follow, "t")
        await trio.testing.wait_all_tasks_blocked()
        assert len(link.reads) == 2
        link.answer(2, b"1", b"2")
        hub.attach(hub.topics["t"], listener)
        link.answer(2, b"1", b"2")
        assert (hub.topics["t"].top, hub.topics["t"].is_live) == (2, True)
        assert listener.heard == []
        reader.push([b"message", b"p:c:{t}", b"3 e.l 3"])
        assert listener.data == [3]
        nursery.cancel_scope.cancel()


async def test_topic_that_is_new_to_the_node_is_read_with_its_last_events(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader, hub = make_reader()
    link = RecordingLink()
    async with trio.open_nursery() as nursery:
        await joined(nursery, reader, link)
        nursery.start_soon(reader.follow, "t")
        await trio.testing.wait_all_tasks_blocked()
        assert -TAIL_EVENTS in link.commands[0]
        link.answer(3, b"1", b"2", b"3")
        resumed = hub.resume(hub.topics["t"], Position(0, "e.l"))
        assert resumed is not None
        assert (resumed.why, len(resumed.frames)) == ("ok", 3)
        nursery.cancel_scope.cancel()


async def test_gap_is_filled_before_later_events_are_delivered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader, hub = make_reader()
    link, listener = RecordingLink(), Listener()
    async with trio.open_nursery() as nursery:
        await joined(nursery, reader, link)
        nursery.start_soon(reader.follow, "t")
        await trio.testing.wait_all_tasks_blocked()
        link.answer(1, b"1")
        hub.attach(hub.topics["t"], listener)
        reader.push([b"message", b"p:c:{t}", b"3 e.l 3"])
        reader.push([b"message", b"p:c:{t}", b"4 e.l 4"])
        assert listener.heard == []
        link.answer(4, b"2", b"3", b"4")
        reader.push([b"message", b"p:c:{t}", b"4 e.l 4"])
        reader.push([b"message", b"p:c:{t}", b"5 e.l 5"])
        assert listener.offsets == [2, 3, 4, 5]
        assert (reader.statistics.filled, reader.statistics.missed) == (1, 0)
        nursery.cancel_scope.cancel()


async def test_waiting_for_a_topic_ends_when_the_engine_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader, _ = make_reader()

    async def wait() -> None:
        with pytest.raises(EngineUnavailableError):
            await reader.follow("t")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        reader.give_up()


async def test_released_topic_is_unsubscribed_and_a_waiting_one_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reader, hub = make_reader()
    link = RecordingLink()
    async with trio.open_nursery() as nursery:
        await joined(nursery, reader, link)
        nursery.start_soon(reader.follow, "t")
        await trio.testing.wait_all_tasks_blocked()
        reader.release(hub.topics["t"])
        assert link.channels == ["p:c:{t}"]
        link.answer(0)
        await trio.testing.wait_all_tasks_blocked()
        reader.release(hub.topics["t"])
        assert (link.channels, hub.topics) == ([], {})
        nursery.cancel_scope.cancel()


async def test_reading_while_the_link_is_replaced_fails_as_a_lost_link() -> None:
    reader, _ = make_reader()
    with pytest.raises(LinkLost) as caught:
        await reader.read("t", "e", 0)
    assert not caught.value.sent
