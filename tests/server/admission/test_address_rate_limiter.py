"""How often an address may connect, and what forged tokens lead to."""

from __future__ import annotations

from typing import Any

import pytest

from trioserver.config import LimitsConfig
from trioserver.server.admission.address_rate_limiter import BURST, AddressRateLimiter

HERE = "192.0.2.1"


def make(**limits: Any) -> AddressRateLimiter:
    return AddressRateLimiter(LimitsConfig(**limits))


def forge(conduct: AddressRateLimiter, times: int, now: float, key: str = HERE) -> None:
    for _ in range(times):
        conduct.forged(key, now)


def test_a_burst_of_handshakes_is_let_in_and_then_so_many_a_second() -> None:
    conduct = make(handshakes_per_second=4)
    assert all(conduct.handshake(HERE, 0.0) == 0.0 for _ in range(int(4 * BURST)))
    assert conduct.handshake(HERE, 0.0) == 0.25
    assert conduct.handshake("192.0.2.2", 0.0) == 0.0
    assert conduct.handshake(HERE, 0.25) == 0.0
    assert conduct.handshake(HERE, 0.25) > 0


def test_an_address_is_blocked_at_so_many_forged_tokens_and_not_before() -> None:
    conduct = make(max_invalid_tokens=3, ban_duration=15.0)
    forge(conduct, 2, 0.0)
    assert conduct.blocked_for(HERE, 0.0) == 0.0
    forge(conduct, 1, 0.0)
    assert conduct.blocked_for(HERE, 1.0) == 14.0
    assert conduct.blocked_for("192.0.2.2", 1.0) == 0.0
    assert (conduct.blocks, conduct.blocked_count(1.0)) == (1, 1)


def test_a_block_ends_and_is_followed_by_a_pardon_as_long() -> None:
    conduct = make(max_invalid_tokens=1, ban_duration=15.0)
    forge(conduct, 1, 0.0)
    assert conduct.blocked_for(HERE, 14.9) > 0
    assert conduct.blocked_count(15.0) == 0
    assert conduct.blocked_for(HERE, 15.0) == 0.0
    forge(conduct, 1000, 29.9)
    assert conduct.blocked_for(HERE, 29.9) == 0.0
    forge(conduct, 1, 30.0)
    assert conduct.blocked_for(HERE, 30.0) == 15.0


def test_a_good_client_behind_an_address_that_forges_without_end_waits_for_a_block_at_most() -> (
    None
):
    conduct = make()
    waited, longest = 0.0, 0.0
    for tick in range(6000):
        now = tick / 10
        forge(conduct, 100, now)
        waited = waited + 0.1 if conduct.blocked_for(HERE, now) else 0.0
        longest = max(longest, waited)
    assert longest <= 15.1


def test_few_forged_tokens_in_a_long_time_block_nobody() -> None:
    conduct = make(max_invalid_tokens=3, invalid_token_window=60.0)
    for n in range(100):
        conduct.forged(HERE, n * 20.0)
    assert conduct.blocks == 0


def test_a_user_who_authenticates_starts_the_count_anew() -> None:
    conduct = make(max_invalid_tokens=3)
    for _ in range(10):
        forge(conduct, 2, 0.0)
        conduct.authenticated(HERE)
    assert conduct.blocks == 0
    conduct.authenticated("never seen")
    assert len(conduct) == 1


def test_a_block_time_of_zero_blocks_nobody() -> None:
    conduct = make(max_invalid_tokens=1, ban_duration=0.0)
    forge(conduct, 1000, 0.0)
    assert conduct.blocked_for(HERE, 0.0) == 0.0


def test_nobody_does_no_wrong() -> None:
    conduct = make(max_invalid_tokens=1, handshakes_per_second=1)
    forge(conduct, 1000, 0.0, key="")
    assert all(conduct.handshake("", 0.0) == 0.0 for _ in range(100))
    assert (conduct.blocked_for("", 0.0), len(conduct)) == (0.0, 0)


def test_a_blocked_address_is_told_so_a_few_times_and_then_once_a_second() -> None:
    conduct = make(max_invalid_tokens=1)
    forge(conduct, 1, 0.0)
    assert sum(conduct.may_be_told(HERE, 0.0) for _ in range(100)) == 10
    assert sum(conduct.may_be_told(HERE, 2.0) for _ in range(100)) == 2


def test_no_more_addresses_are_remembered_than_allowed_and_the_longest_unseen_goes_first() -> None:
    conduct = make(max_tracked_addresses=100, max_invalid_tokens=1)
    forge(conduct, 1, 0.0, key="first")
    for n in range(1000):
        conduct.handshake(f"other {n}", 0.0)
        if n == 50:
            conduct.handshake("first", 0.0)
    assert len(conduct) <= 100
    assert conduct.blocked_count(0.0) == 0, "forgotten with its address"


def test_who_is_as_good_as_new_is_forgotten_in_time() -> None:
    conduct = make()
    for n in range(1000):
        conduct.handshake(f"old {n}", 0.0)
    for n in range(600):
        conduct.handshake(f"new {n}", 1000.0)
    assert len(conduct) == 600


@pytest.mark.parametrize(
    "name", ["max_invalid_tokens", "handshakes_per_second", "max_tracked_addresses"]
)
def test_limits_begin_at_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be a whole number from 1"):
        make(**{name: 0})
