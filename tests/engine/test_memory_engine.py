"""Topics in memory."""

from __future__ import annotations

import json
from typing import Any

from protocol import raw
from trioserver.engine.memory import MemoryEngine


class Listener:
    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def hear(self, event: bytes) -> None:
        self.heard.append(json.loads(event))


def test_subscribers_hear_their_topics_and_only_once() -> None:
    engine, listener, other = MemoryEngine(), Listener(), Listener()
    for _ in range(2):
        engine.subscribe("a", listener)
    engine.subscribe("b", other)
    assert engine.publish("a", raw({"n": 1})) == 0
    assert listener.heard == [{"type": "event", "topic": "a", "offset": 0, "data": {"n": 1}}]
    assert other.heard == []


def test_offsets_have_no_gaps_while_somebody_listens_and_never_go_back() -> None:
    engine, listener = MemoryEngine(), Listener()
    engine.subscribe("a", listener)
    assert [engine.publish("a", raw(n)) for n in range(3)] == [0, 1, 2]
    engine.unsubscribe("a", listener)
    assert engine.publish("a", raw(0)) == 3
    engine.subscribe("a", listener)
    assert engine.publish("a", raw(0)) == 4


def test_a_topic_that_nobody_hears_costs_nothing() -> None:
    engine, listener = MemoryEngine(), Listener()
    for n in range(1000):
        engine.publish(f"topic-{n}", raw(n))
    engine.subscribe("a", listener)
    engine.unsubscribe("a", listener)
    engine.unsubscribe("a", listener)
    engine.unsubscribe("never there", listener)
    assert len(engine) == 0


def test_a_subscriber_may_leave_while_it_hears() -> None:
    engine = MemoryEngine()

    class Leaver(Listener):
        def hear(self, event: bytes) -> None:
            super().hear(event)
            engine.unsubscribe("a", self)

    leavers = [Leaver() for _ in range(3)]
    for leaver in leavers:
        engine.subscribe("a", leaver)
    engine.publish("a", raw(1))
    assert [len(leaver.heard) for leaver in leavers] == [1, 1, 1]
    assert len(engine) == 0
