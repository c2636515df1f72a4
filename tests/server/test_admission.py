"""Who gets in when it is full."""

from __future__ import annotations

import time
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from trioserver.admission.places import SPARE, Admission, Ticket


class Hall:
    """An admission, and who was evicted from it; names are "address/number"."""

    def __init__(
        self, *, everywhere: int = 1000, at_one: int = 50, grace: float = 2.0, connections: int = 10
    ) -> None:
        self.evicted: list[str] = []
        self.caps: list[str] = []
        self.admission = Admission(
            max_connections=connections,
            max_unauthenticated=everywhere,
            max_per_address=at_one,
            grace=grace,
            on_eviction=lambda ticket, cap: self.caps.append(cap),
        )
        self.tickets: dict[str, Ticket] = {}

    def enter(self, name: str, now: float = 0.0) -> bool:
        key = name.partition("/")[0]
        ticket = self.admission.enter(partial(self.evicted.append, name), key, now)
        if ticket is not None:
            self.tickets[name] = ticket
        return ticket is not None


def test_at_the_cap_of_all_the_oldest_of_the_address_that_holds_most_gives_way() -> None:
    hall = Hall(everywhere=4)
    for name in ("good/1", "bad/1", "bad/2", "bad/3", "new/1", "new/2"):
        assert hall.enter(name)
    assert hall.evicted == ["bad/1", "bad/2"]
    assert hall.caps == ["all", "all"]
    assert hall.admission.unauthenticated == 4


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


def test_at_the_cap_of_an_address_its_oldest_gives_way_and_no_other() -> None:
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
    hall.admission.verifying(hall.tickets["a/1"])
    assert hall.enter("a/2", now=100.0)
    assert hall.evicted == []


def test_who_waits_for_us_gives_way_only_where_nobody_is_silent() -> None:
    hall = Hall(everywhere=3)
    for name in ("bad/1", "bad/2", "good/1"):
        hall.enter(name)
    for name in ("bad/1", "bad/2"):
        hall.admission.verifying(hall.tickets[name])
    assert hall.enter("new/1")
    assert hall.evicted == ["good/1"]
    hall.admission.verifying(hall.tickets["new/1"])
    assert hall.enter("another/1")
    assert hall.evicted == ["good/1", "bad/1"]
    hall.admission.verifying(hall.tickets["another/1"])
    assert not hall.enter("yet-another/1"), "nobody holds more than it would"
    assert not hall.enter("bad/3")
    assert hall.admission.unauthenticated == hall.admission.open - 2 == 3


def test_who_is_authenticated_or_refused_is_not_evicted_and_not_counted() -> None:
    hall = Hall(everywhere=2)
    for name in ("a/1", "a/2"):
        hall.enter(name)
    hall.admission.verifying(hall.tickets["a/1"])
    hall.admission.authenticated(hall.tickets["a/1"])
    hall.admission.refused(hall.tickets["a/2"])
    assert hall.admission.unauthenticated == 0
    assert hall.enter("a/3")
    assert hall.enter("a/4")
    assert hall.evicted == []
    assert hall.admission.open == 4


def test_who_is_identified_counts_where_it_belongs_as_the_newest_there() -> None:
    hall = Hall(at_one=2)
    for name in ("/1", "a/1"):
        hall.enter(name)
    hall.admission.identify(hall.tickets["/1"], "a", 0.0)
    assert hall.enter("a/2", now=5.0)
    assert hall.evicted == ["a/1"]
    hall.enter("/2", now=5.0)
    hall.admission.identify(hall.tickets["/2"], "a", 5.0)
    assert hall.evicted == ["a/1", "/1"]


def test_who_was_evicted_is_not_counted_again_when_it_is_identified() -> None:
    hall = Hall(everywhere=1)
    hall.enter("/1")
    hall.enter("/2")
    hall.admission.identify(hall.tickets["/1"], "a", 0.0)
    hall.admission.verifying(hall.tickets["/1"])
    assert hall.admission.unauthenticated == 1
    assert hall.evicted == ["/1"]


def test_what_leaves_is_counted_out_whatever_became_of_it() -> None:
    hall = Hall(everywhere=2)
    for n in range(6):
        hall.enter(f"a/{n}")
    hall.admission.verifying(hall.tickets["a/4"])
    hall.admission.authenticated(hall.tickets["a/5"])
    for ticket in hall.tickets.values():
        hall.admission.leave(ticket)
    assert (hall.admission.open, hall.admission.unauthenticated) == (0, 0)
    assert hall.admission.evicted == len(hall.evicted) == 4


def test_beyond_the_cap_there_are_a_few_places_for_refusals_and_then_none() -> None:
    hall = Hall(connections=1)
    assert hall.enter("a/0")
    assert not hall.admission.is_full
    for n in range(SPARE):
        assert hall.enter(f"b{n}/0")
        assert hall.admission.is_full
    assert not hall.enter("c/0")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=120))
def test_whatever_happens_the_caps_hold_and_the_counts_agree(
    steps: list[tuple[int, int]],
) -> None:
    hall = Hall(everywhere=8, at_one=3, grace=0.0, connections=20)
    inside: dict[str, Ticket] = {}
    for number, (action, which) in enumerate(steps):
        name = f"{'abc'[which % 3]}/{number}"
        if action < 3:
            if hall.enter(name, float(number)):
                inside[name] = hall.tickets[name]
        elif inside:
            chosen = sorted(inside)[which % len(inside)]
            if action == 3:
                hall.admission.verifying(inside[chosen])
            elif action == 4:
                hall.admission.authenticated(inside[chosen])
            else:
                hall.admission.leave(inside.pop(chosen))
        assert hall.admission.unauthenticated <= 8
        assert hall.admission.open == len(inside) <= 20 + SPARE
    for ticket in inside.values():
        hall.admission.leave(ticket)
    assert (hall.admission.open, hall.admission.unauthenticated) == (0, 0)
    assert hall.admission._silent.most == hall.admission._verifying.most == 0


def test_it_costs_microseconds_when_two_thousand_come_at_once() -> None:
    """Everybody comes twice, at the cap of all: each admission is an eviction as well."""
    times = []
    for _ in range(3):
        hall = Hall(everywhere=1000, connections=20_000)
        begun = time.perf_counter()
        for n in range(4000):
            hall.admission.enter(_nothing, f"192.0.2.{n % 200}", n / 1e4)
        times.append((time.perf_counter() - begun) / 4000)
        assert hall.admission.evicted == 3000
    assert min(times) < 50e-6, "a few microseconds are usual; this allows for a busy machine"


def _nothing() -> None:
    pass
