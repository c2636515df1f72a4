"""Who gets in when it is full."""

from __future__ import annotations

import time
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from trioserver.config import LimitsConfig
from trioserver.server.admission.connection_limiter import REJECT_HEADROOM, ConnectionLimiter
from trioserver.server.admission.slot import Slot, SlotState


class Hall:
    """A limiter, and whom it evicted and ended by force; names are "address/number"."""

    def __init__(
        self,
        *,
        everywhere: int = 1000,
        at_one: int = 50,
        grace: float = 2.0,
        connections: int = 1000,
        http: int = 1000,
    ) -> None:
        self.evicted: list[str] = []
        self.aborted: list[str] = []
        self.caps: list[str] = []
        self.limiter = ConnectionLimiter(
            LimitsConfig(
                max_connections=connections,
                max_unauthenticated=everywhere,
                max_unauthenticated_per_address=at_one,
                unauthenticated_grace=grace,
            ),
            http_connections=http,
            on_eviction=lambda slot, cap: self.caps.append(cap),
        )
        self.slots: dict[str, Slot] = {}

    def enter(self, name: str, now: float = 0.0) -> bool:
        key = name.partition("/")[0]
        slot = self.limiter.enter(partial(self.evicted.append, name), key, now)
        if slot is not None:
            self.slots[name] = slot
        return slot is not None

    def enter_upgraded(self, name: str, now: float = 0.0) -> Slot:
        """One that is told why, and takes its time to close."""
        assert self.enter(name, now)
        slot = self.slots[name]
        slot.closes_gracefully, slot.abort = True, partial(self.aborted.append, name)
        return slot

    def enter_http(self, name: str, *, idle: bool = False) -> None:
        assert self.enter(name)
        self.slots[name].serve_http()
        if idle:
            self.slots[name].idle(True)

    def leave(self, name: str) -> None:
        self.slots.pop(name).__exit__()

    def end_evicted(self) -> None:
        """What the loop does in its next round."""
        for name in self.evicted:
            if name in self.slots and not self.slots[name].closes_gracefully:
                self.leave(name)


def test_at_the_cap_of_all_the_oldest_of_the_address_that_holds_most_is_evicted() -> None:
    hall = Hall(everywhere=4)
    for name in ("good/1", "bad/1", "bad/2", "bad/3", "new/1", "new/2"):
        assert hall.enter(name)
    assert hall.evicted == ["bad/1", "bad/2"]
    assert hall.caps == ["all", "all"]
    assert hall.limiter.unauthenticated == 4


def test_at_the_cap_of_all_it_is_one_of_the_same_address_where_none_holds_more() -> None:
    hall = Hall(everywhere=3)
    for name in ("a/1", "b/1", "c/1", "b/2"):
        assert hall.enter(name)
    assert hall.evicted == ["b/1"]


def test_those_without_an_address_share_the_cap_of_all_and_no_other() -> None:
    hall = Hall(everywhere=3, at_one=1, grace=0.0)
    for n in range(4):
        assert hall.enter(f"/{n}")
    assert hall.evicted == ["/0"]


def test_at_the_cap_of_an_address_its_oldest_is_evicted_and_no_other() -> None:
    hall = Hall(at_one=2)
    for name in ("a/1", "b/1", "b/2"):
        assert hall.enter(name, 0.0)
    assert hall.enter("b/3", 2.0)
    assert hall.evicted == ["b/1"]
    assert hall.caps == ["address"]


def test_the_young_do_not_give_way_to_their_neighbours() -> None:
    hall = Hall(at_one=2, grace=2.0)
    for n in range(5):
        assert hall.enter(f"a/{n}", now=0.0)
    assert hall.enter("a/5", now=1.9)
    assert hall.evicted == []
    assert hall.enter("a/6", now=2.0)
    assert hall.evicted == ["a/0", "a/1", "a/2", "a/3", "a/4"]


def test_who_waits_for_us_does_not_give_way_to_a_neighbour() -> None:
    hall = Hall(at_one=1)
    hall.enter("a/1")
    hall.slots["a/1"].authenticating()
    assert hall.enter("a/2", now=100.0)
    assert hall.evicted == []


def test_a_connection_that_waits_for_the_server_is_evicted_only_if_none_is_silent() -> None:
    hall = Hall(everywhere=3)
    for name in ("bad/1", "bad/2", "good/1"):
        hall.enter(name)
    for name in ("bad/1", "bad/2"):
        hall.slots[name].authenticating()
    assert hall.enter("new/1")
    assert hall.evicted == ["good/1"]
    hall.slots["new/1"].authenticating()
    assert hall.enter("another/1")
    assert hall.evicted == ["good/1", "bad/1"]
    hall.slots["another/1"].authenticating()
    assert not hall.enter("yet-another/1"), "nobody holds more than it would"
    assert not hall.enter("bad/3")
    assert hall.limiter.unauthenticated == hall.limiter.open - 2 == 3


def test_who_is_authenticated_or_refused_is_not_evicted_and_not_counted() -> None:
    hall = Hall(everywhere=2)
    for name in ("a/1", "a/2"):
        hall.enter(name)
    hall.slots["a/1"].authenticating()
    hall.slots["a/1"].ready()
    hall.slots["a/2"].closing()
    assert hall.limiter.unauthenticated == 0
    assert hall.enter("a/3")
    assert hall.enter("a/4")
    assert hall.evicted == []
    assert hall.limiter.open == 4


def test_who_is_identified_counts_where_it_belongs_as_the_newest_there() -> None:
    hall = Hall(at_one=2)
    for name in ("/1", "a/1"):
        hall.enter(name)
    hall.slots["/1"].identify("a", 0.0)
    assert hall.enter("a/2", now=5.0)
    assert hall.evicted == ["a/1"]
    hall.enter("/2", now=5.0)
    hall.slots["/2"].identify("a", 5.0)
    assert hall.evicted == ["a/1", "/1"]


def test_who_was_evicted_is_not_counted_again_when_it_is_identified() -> None:
    hall = Hall(everywhere=1)
    hall.enter("/1")
    hall.enter("/2")
    hall.slots["/1"].identify("a", 0.0)
    hall.slots["/1"].authenticating()
    assert hall.limiter.unauthenticated == 1
    assert hall.evicted == ["/1"]


def test_what_leaves_is_counted_out_whatever_became_of_it() -> None:
    hall = Hall(everywhere=2)
    for n in range(6):
        hall.enter(f"a/{n}")
    hall.slots["a/4"].authenticating()
    hall.slots["a/5"].ready()
    for name in list(hall.slots):
        hall.leave(name)
    assert (hall.limiter.open, hall.limiter.unauthenticated) == (0, 0)
    assert hall.limiter.evicted == len(hall.evicted) == 4


# ------------------------------------------------------------------------------ the cap of all


def test_silent_ones_at_the_cap_of_all_connections_keep_out_nobody() -> None:
    hall = Hall(connections=300)
    for n in range(5000):
        assert hall.enter(f"bad{n % 8}/{n}", now=n / 100)
        hall.end_evicted()
    assert hall.enter("good/1", now=50.0)
    for n in range(300):
        assert hall.enter(f"bad{n % 8}/again{n}", now=50.0)
        hall.end_evicted()
    assert "good/1" not in hall.evicted
    assert hall.limiter.open <= 300 + REJECT_HEADROOM
    hall.slots["good/1"].ready()


def test_where_ready_ones_leave_hardly_any_room_a_newcomer_has_time_to_authenticate() -> None:
    hall = Hall(connections=300)
    for n in range(299):
        hall.enter_upgraded(f"user{n}/1").ready()
    for n in range(100):
        assert hall.enter(f"bad{n % 8}/{n}")
        hall.end_evicted()
    assert hall.enter("good/1")
    for n in range(20):
        assert hall.enter(f"bad{n % 8}/again{n}")
        hall.end_evicted()
    assert "good/1" not in hall.evicted
    assert not hall.limiter.is_full
    hall.slots["good/1"].ready()
    assert hall.limiter.is_full


def test_ready_ones_are_never_evicted_and_newcomers_can_always_be_told() -> None:
    hall = Hall(connections=10)
    for n in range(10):
        hall.enter_upgraded(f"user{n}/1").ready()
    assert hall.limiter.is_full
    for n in range(500):
        hall.enter_upgraded(f"new{n}/1").closing()
    assert hall.limiter.open - len(hall.aborted) <= 10 + REJECT_HEADROOM
    assert not any(name.startswith("user") for name in (*hall.evicted, *hall.aborted))


def test_those_that_close_slowly_are_ended_by_force_where_their_room_is_needed() -> None:
    hall = Hall(connections=10)
    for n in range(100):
        hall.enter_upgraded(f"bad{n % 20}/{n}").closing()
    assert hall.aborted == [f"bad{n % 20}/{n}" for n in range(100 - 10 - REJECT_HEADROOM)]
    assert hall.evicted == []


def test_beyond_those_that_do_not_end_even_by_force_newcomers_are_dropped() -> None:
    hall = Hall(connections=1)
    entered = sum(hall.enter(f"a{n}/0") for n in range(2000))
    assert entered < 1200, "nobody of these has ended"


# ------------------------------------------------------------------------------ HTTP


def test_at_the_cap_of_http_an_idle_one_is_evicted_then_the_oldest_of_who_has_most() -> None:
    hall = Hall(http=4)
    hall.enter_http("good/upload")
    hall.enter_http("good/2", idle=True)
    for n in range(50):
        hall.enter_http(f"bad/{n}")
        hall.end_evicted()
    assert hall.evicted[0] == "good/2"
    assert "good/upload" not in hall.evicted
    assert set(hall.caps) == {"http"}
    assert hall.limiter.http == 4


def test_http_and_websockets_keep_out_neither_the_other() -> None:
    hall = Hall(connections=50, http=1000)
    for n in range(300):
        hall.enter_http(f"web{n % 5}/{n}")
        hall.end_evicted()
    for n in range(300):
        assert hall.enter(f"socket{n % 5}/{n}")
        hall.end_evicted()
    assert hall.limiter.http >= 20, "uploads and downloads go on"
    assert hall.limiter.unauthenticated >= 16
    hall.enter_http("good/1")
    assert hall.limiter.open <= 50 + REJECT_HEADROOM


def test_a_probe_evicts_nobody_where_ready_ones_fill_the_server() -> None:
    hall = Hall(connections=2)
    hall.enter_http("a/upload")
    for n in range(2):
        hall.enter_upgraded(f"user{n}/1").ready()
    assert hall.enter("probe/1")
    hall.slots["probe/1"].serve_http(spare=True)
    assert hall.evicted == []


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30)), max_size=150))
def test_whatever_happens_the_caps_hold_and_the_counts_agree(
    steps: list[tuple[int, int]],
) -> None:
    hall = Hall(everywhere=8, at_one=3, grace=0.0, connections=20, http=5)
    for number, (action, which) in enumerate(steps):
        name = f"{'abc'[which % 3]}/{number}"
        if action < 3:
            hall.enter(name, float(number))
        elif hall.slots:
            chosen = sorted(hall.slots)[which % len(hall.slots)]
            slot = hall.slots[chosen]
            match action:
                case 3:
                    if slot.state is SlotState.SILENT:
                        slot.authenticating()
                case 4:
                    if slot.state in (SlotState.SILENT, SlotState.AUTHENTICATING):
                        slot.ready()
                case 5:
                    slot.serve_http()
                case 6:
                    if slot.state in (SlotState.HTTP_IDLE, SlotState.HTTP_ACTIVE):
                        slot.idle(which % 2 == 0)
                case 7:
                    slot.closing()
                case _:
                    hall.leave(chosen)
        hall.end_evicted()
        limiter = hall.limiter
        assert limiter.unauthenticated <= 8
        assert limiter.http <= 5
        assert limiter.open == len(hall.slots)
    for name in list(hall.slots):
        hall.leave(name)
    limiter = hall.limiter
    assert (limiter.open, limiter.unauthenticated, limiter.http) == (0, 0, 0)
    assert (limiter._ready, limiter._aborted, len(limiter._closing)) == (0, 0, 0)
    assert all(queue.most == 0 for queue in limiter._queues.values())


def test_it_costs_microseconds_when_two_thousand_come_at_once() -> None:
    """Everybody comes twice, at the cap of all: each admission is an eviction as well."""
    times = []
    for _ in range(3):
        evicted: list[Slot] = []
        limiter = ConnectionLimiter(
            LimitsConfig(max_unauthenticated=1000, max_connections=20_000),
            http_connections=1000,
            on_eviction=lambda slot, cap: evicted.append(slot),  # noqa: B023
        )
        begun = time.process_time()
        for n in range(4000):
            assert limiter.enter(_nothing, f"192.0.2.{n % 200}", n / 1e4) is not None
            while evicted:
                evicted.pop().__exit__()
        times.append((time.process_time() - begun) / 4000)
        assert limiter.evicted == 3000
    assert min(times) < 50e-6, "of CPU time; a few microseconds are usual"


def _nothing() -> None:
    pass
