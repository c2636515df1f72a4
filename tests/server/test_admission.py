"""Who gets in when it is full."""

from __future__ import annotations

from functools import partial

from trioserver.admission import SPARE, Admission, Ticket


def test_the_oldest_unauthenticated_one_gives_way() -> None:
    evicted: list[str] = []
    admission = Admission(max_connections=10, max_unauthenticated=2)
    tickets = {name: admission.enter(partial(evicted.append, name)) for name in "abc"}
    assert evicted == ["a"]
    b = tickets["b"]
    assert b is not None
    admission.authenticated(b)
    admission.enter(partial(evicted.append, "d"))
    assert evicted == ["a"]
    admission.enter(partial(evicted.append, "e"))
    assert evicted == ["a", "c"]
    assert (admission.open, admission.unauthenticated) == (5, 2)


def test_what_leaves_is_counted_out_whatever_became_of_it() -> None:
    admission = Admission(max_connections=10, max_unauthenticated=2)
    tickets = [admission.enter(lambda: None) for _ in range(4)]
    for ticket in tickets:
        assert ticket is not None
        admission.leave(ticket)
    assert (admission.open, admission.unauthenticated) == (0, 0)


def test_beyond_the_cap_there_are_a_few_places_for_refusals_and_then_none() -> None:
    admission = Admission(max_connections=1, max_unauthenticated=1000)
    assert isinstance(admission.enter(lambda: None), Ticket)
    assert not admission.is_full
    for _ in range(SPARE):
        assert admission.enter(lambda: None) is not None
        assert admission.is_full
    assert admission.enter(lambda: None) is None
