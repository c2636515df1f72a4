"""Topics in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from protocol import raw
from trioserver.engine import memory
from trioserver.engine.memory import MAX_IDLE_CHARACTERS, MAX_IDLE_TOPICS, MemoryEngine


class Listener:
    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def deliver(self, event: bytes) -> None:
        self.heard.append(json.loads(event))


def test_subscribers_hear_their_topics_and_only_once() -> None:
    engine, listener, other = MemoryEngine(), Listener(), Listener()
    for _ in range(2):
        engine.subscribe("a", listener)
    engine.subscribe("b", other)
    assert engine.publish("a", raw({"n": 1})) == 1
    assert listener.heard == [{"type": "event", "topic": "a", "offset": 1, "data": {"n": 1}}]
    assert other.heard == []


def test_offsets_count_the_events_of_a_topic_whoever_listens() -> None:
    engine, listener = MemoryEngine(), Listener()
    assert engine.publish("a", raw(0)) == 1
    engine.subscribe("a", listener)
    assert [engine.publish("a", raw(n)) for n in range(3)] == [2, 3, 4]
    engine.unsubscribe("a", listener)
    assert engine.publish("a", raw(0)) == 5
    engine.subscribe("a", listener)
    assert engine.publish("a", raw(0)) == 6
    assert [event["offset"] for event in listener.heard] == [2, 3, 4, 6]


def test_events_of_other_topics_move_no_offset() -> None:
    engine, listener = MemoryEngine(), Listener()
    engine.subscribe("a", listener)
    engine.publish("a", raw(0))
    engine.unsubscribe("a", listener)
    for n in range(100):
        assert engine.publish("b", raw(n)) == n + 1
    engine.subscribe("b", listener)
    assert engine.publish("c", raw(0)) == 1
    engine.subscribe("a", listener)
    assert engine.publish("a", raw(0)) == 2


def test_topics_that_nobody_hears_cost_bounded_memory() -> None:
    engine, listener = MemoryEngine(), Listener()
    for n in range(MAX_IDLE_TOPICS + 1000):
        engine.publish(f"topic-{n}", raw(n))
    assert len(engine._idle) == MAX_IDLE_TOPICS
    engine.publish("x" * (MAX_IDLE_CHARACTERS + 1), raw(0))
    for n in range(20):
        engine.publish(f"{n}" * (MAX_IDLE_CHARACTERS // 10), raw(n))
    assert sum(map(len, engine._idle)) == engine._idle_characters <= MAX_IDLE_CHARACTERS
    for n in range(MAX_IDLE_TOPICS + 1000):
        engine.subscribe(f"never published to {n}", listener)
        engine.unsubscribe(f"never published to {n}", listener)
    engine.unsubscribe("never there", listener)
    assert len(engine) == 0
    assert not any("never" in topic for topic in engine._idle)


@pytest.mark.parametrize("floors", [1, 65_536])
def test_a_topic_that_was_forgotten_goes_on_with_a_higher_offset(
    floors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_FLOORS", floors)
    engine = MemoryEngine()
    for _ in range(5):
        engine.publish("a", raw(0))
    for n in range(MAX_IDLE_TOPICS):
        engine.publish(f"topic-{n}", raw(n))
    assert "a" not in engine._idle
    assert engine.publish("a", raw(0)) == 6
    engine.publish("b", raw(0))


class Topics(RuleBasedStateMachine):
    """Few topics, and memory for fewer: whatever happens, no offset is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(memory, "MAX_IDLE_TOPICS", 2)
        self.patch.setattr(memory, "_FLOORS", 2)
        self.engine, self.listener = MemoryEngine(), Listener()
        self.last: dict[str, int] = {}
        self.heard: set[str] = set()

    def teardown(self) -> None:
        self.patch.undo()

    topics = st.sampled_from("abcdef")

    @rule(topic=topics)
    def publish(self, topic: str) -> None:
        offset = self.engine.publish(topic, raw(0))
        exact = topic in self.heard
        last = self.last.get(topic, 0)
        assert offset == last + 1 if exact else offset > last
        self.last[topic] = offset

    @rule(topic=topics)
    def subscribe(self, topic: str) -> None:
        self.engine.subscribe(topic, self.listener)
        self.engine.publish(topic, raw(0))
        offset = self.listener.heard[-1]["offset"]
        assert offset > self.last.get(topic, 0)
        self.last[topic] = offset
        self.heard.add(topic)

    @rule(topic=topics)
    def unsubscribe(self, topic: str) -> None:
        self.engine.unsubscribe(topic, self.listener)
        self.heard.discard(topic)


TestTopics = Topics.TestCase


def test_a_subscriber_may_leave_while_it_hears() -> None:
    engine = MemoryEngine()

    class Leaver(Listener):
        def deliver(self, event: bytes) -> None:
            super().deliver(event)
            engine.unsubscribe("a", self)

    leavers = [Leaver() for _ in range(3)]
    for leaver in leavers:
        engine.subscribe("a", leaver)
    engine.publish("a", raw(1))
    assert [len(leaver.heard) for leaver in leavers] == [1, 1, 1]
    assert len(engine) == 0
