"""How often an address may connect, and what forged tokens lead to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.config import LimitsConfig
from trioserver.server.admission.address_rate_limiter import BURST, AddressRateLimiter

HERE = "192.0.2.1"


def make(**limits: Any) -> AddressRateLimiter:
    return AddressRateLimiter(LimitsConfig(**limits))


def forge(addresses: AddressRateLimiter, times: int, now: float, key: str = HERE) -> None:
    for _ in range(times):
        addresses.record_invalid_token(key, now)


def test_a_burst_of_handshakes_is_allowed_and_then_the_rate_per_second() -> None:
    addresses = make(handshakes_per_second=4)
    assert all(addresses.charge_handshake(HERE, 0.0) == 0.0 for _ in range(int(4 * BURST)))
    assert addresses.charge_handshake(HERE, 0.0) == 0.25
    assert addresses.charge_handshake("192.0.2.2", 0.0) == 0.0
    assert addresses.charge_handshake(HERE, 0.25) == 0.0
    assert addresses.charge_handshake(HERE, 0.25) > 0


def test_an_address_is_banned_at_the_limit_of_invalid_tokens_and_not_before() -> None:
    addresses = make(max_invalid_tokens=3, ban_duration=15.0)
    forge(addresses, 2, 0.0)
    assert addresses.banned_for(HERE, 0.0) == 0.0
    forge(addresses, 1, 0.0)
    assert addresses.banned_for(HERE, 1.0) == 14.0
    assert addresses.banned_for("192.0.2.2", 1.0) == 0.0
    assert (addresses.bans, addresses.banned_count(1.0)) == (1, 1)


def test_a_block_ends_and_is_followed_by_a_pardon_as_long() -> None:
    addresses = make(max_invalid_tokens=1, ban_duration=15.0)
    forge(addresses, 1, 0.0)
    assert addresses.banned_for(HERE, 14.9) > 0
    assert addresses.banned_count(15.0) == 0
    assert addresses.banned_for(HERE, 15.0) == 0.0
    forge(addresses, 1000, 29.9)
    assert addresses.banned_for(HERE, 29.9) == 0.0
    forge(addresses, 1, 30.0)
    assert addresses.banned_for(HERE, 30.0) == 15.0


def test_a_good_client_behind_an_address_that_forges_without_end_waits_for_a_block_at_most() -> (
    None
):
    addresses = make()
    waited, longest = 0.0, 0.0
    for tick in range(6000):
        now = tick / 10
        forge(addresses, 100, now)
        waited = waited + 0.1 if addresses.banned_for(HERE, now) else 0.0
        longest = max(longest, waited)
    assert longest <= 15.1


def test_few_invalid_tokens_in_a_long_time_ban_no_address() -> None:
    addresses = make(max_invalid_tokens=3, invalid_token_window=60.0)
    for n in range(100):
        addresses.record_invalid_token(HERE, n * 20.0)
    assert addresses.bans == 0


def test_a_user_who_authenticates_starts_the_count_anew() -> None:
    addresses = make(max_invalid_tokens=3)
    for _ in range(10):
        forge(addresses, 2, 0.0)
        addresses.record_authenticated(HERE)
    assert addresses.bans == 0
    addresses.record_authenticated("never seen")
    assert len(addresses) == 1


def test_a_ban_duration_of_zero_bans_no_address() -> None:
    addresses = make(max_invalid_tokens=1, ban_duration=0.0)
    forge(addresses, 1000, 0.0)
    assert addresses.banned_for(HERE, 0.0) == 0.0


def test_the_empty_address_is_never_banned() -> None:
    addresses = make(max_invalid_tokens=1, handshakes_per_second=1)
    forge(addresses, 1000, 0.0, key="")
    assert all(addresses.charge_handshake("", 0.0) == 0.0 for _ in range(100))
    assert (addresses.banned_for("", 0.0), len(addresses)) == (0.0, 0)


def test_a_banned_address_gets_a_few_responses_and_then_one_a_second() -> None:
    addresses = make(max_invalid_tokens=1)
    forge(addresses, 1, 0.0)
    assert sum(addresses.should_respond(HERE, 0.0) for _ in range(100)) == 10
    assert sum(addresses.should_respond(HERE, 2.0) for _ in range(100)) == 2


def test_no_more_addresses_are_remembered_than_allowed_and_the_longest_unseen_goes_first() -> None:
    addresses = make(max_tracked_addresses=100, max_invalid_tokens=1)
    forge(addresses, 1, 0.0, key="first")
    for n in range(1000):
        addresses.charge_handshake(f"other {n}", 0.0)
        if n == 50:
            addresses.charge_handshake("first", 0.0)
    assert len(addresses) <= 100
    assert addresses.banned_count(0.0) == 0, "forgotten with its address"


def test_who_is_as_good_as_new_is_forgotten_in_time() -> None:
    addresses = make()
    for n in range(1000):
        addresses.charge_handshake(f"old {n}", 0.0)
    for n in range(600):
        addresses.charge_handshake(f"new {n}", 1000.0)
    assert len(addresses) == 600


@pytest.mark.parametrize(
    "name", ["max_invalid_tokens", "handshakes_per_second", "max_tracked_addresses"]
)
def test_limits_begin_at_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be a whole number from 1"):
        make(**{name: 0})


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.floats(0.0, 40.0), st.sampled_from([5.0, 15.0]))
    )
)
def test_as_many_addresses_are_counted_as_banned_as_are(
    steps: list[tuple[str, float, float]],
) -> None:
    addresses, now = make(max_invalid_tokens=1), 0.0
    for key, seconds, duration in steps:
        now += seconds
        addresses.reconfigure(LimitsConfig(max_invalid_tokens=1, ban_duration=duration))
        addresses.record_invalid_token(key, now)
        banned = sum(addresses.banned_for(each, now) > 0 for each in "abcdef")
        assert addresses.banned_count(now) == banned


def test_counting_banned_addresses_looks_at_none_whose_ban_goes_on() -> None:
    """Statistics are asked for with each probe, and an attack bans a hundred thousand."""

    class Unread(dict[str, float]):
        def values(self) -> Any:
            raise AssertionError("all of them were looked at")

        items = __iter__ = values

    addresses = make(max_invalid_tokens=1, ban_duration=15.0)
    for number in range(1000):
        addresses.record_invalid_token(f"10.0.{number}", float(number >= 600))
    addresses._banned = Unread(addresses._banned)
    assert addresses.banned_count(14.0) == 1000
    assert addresses.banned_count(15.5) == 400
    assert addresses.banned_count(20.0) == 0


def test_the_ends_of_bans_are_as_few_as_the_addresses_that_are_kept() -> None:
    addresses = make(max_invalid_tokens=1, ban_duration=1000.0, max_tracked_addresses=1000)
    for number in range(20_000):
        addresses.record_invalid_token(f"10.0.{number}", 0.0)
    assert addresses.banned_count(0.0) <= 1000
    assert len(addresses._ban_ends) <= 3001
