"""Who is behind a proxy, as the proxies say it, and what a client may not invent."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.peers.addresses import Networks
from trioserver.peers.forwarded import MAX_HOPS, client_of

PROXY = "10.0.0.1:4000"
TRUSTED = Networks(["10.0.0.0/8", "fd00::/8", "unix"])


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], PROXY),
        ([""], PROXY),
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:99"], "192.0.2.1:99"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:99"], "[2001:db8::1]:99"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
        (["203.0.113.9 ,  192.0.2.1 , 10.0.0.2,10.0.0.3"], "192.0.2.1"),
        (["203.0.113.9, 192.0.2.1", "fd00::1"], "192.0.2.1"),
        (["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        (["unknown"], PROXY),
        (["192.0.2.1, unknown"], PROXY),
        (["192.0.2.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.1,"], PROXY),
        (["fe80::1%eth0"], PROXY),
        (["192.0.2.1.5"], PROXY),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right_over_those_who_are_trusted(
    lines: list[str], client: str
) -> None:
    assert client_of(PROXY, "x-forwarded-for", lines, TRUSTED) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], PROXY),
        (["for=192.0.2.1"], "192.0.2.1"),
        (["For=192.0.2.1;proto=http;by=203.0.113.43"], "192.0.2.1"),
        (["proto=https; for=192.0.2.1 ;host=example.org;"], "192.0.2.1"),
        (['for="192.0.2.1:99"'], "192.0.2.1:99"),
        (['for="[2001:db8:cafe::17]:4711"'], "[2001:db8:cafe::17]:4711"),
        (['for="[2001:db8:cafe::17]:_port"'], "2001:db8:cafe::17"),
        (["for=[2001:db8::1]:7"], "[2001:db8::1]:7"),
        (["for=203.0.113.9, for=192.0.2.1"], "192.0.2.1"),
        (["for=203.0.113.9", "for=192.0.2.1,for=10.0.0.2"], "192.0.2.1"),
        (['for="_gazonk"'], "_gazonk"),
        (["for=_SEVKISEK"], "_SEVKISEK"),
        (["for=unknown"], PROXY),
        (["by=203.0.113.43"], PROXY),
        (["for="], PROXY),
        (["for=192.0.2.1 nonsense"], PROXY),
        (['for="192.0.2.1'], PROXY),
        (['for="192.\\0.2.1"'], "192.0.2.1"),
        (['by="a, for=9.9.9.9;x";for=192.0.2.1'], "192.0.2.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(lines: list[str], client: str) -> None:
    assert client_of(PROXY, "forwarded", lines, TRUSTED) == client


@pytest.mark.parametrize(
    "invented",
    ['for="', 'for="a;b', "for=203.0.113.9;x=", ",,,", "\\", 'for="\\', '"', "for", "a" * 9000],
)
@pytest.mark.parametrize("appended", ["for=192.0.2.1", 'for="192.0.2.1";by="[fd00::1]:80"'])
def test_what_a_client_invents_does_not_swallow_what_the_proxy_says(
    invented: str, appended: str
) -> None:
    lines = [f"{invented}, {appended}"]
    assert client_of(PROXY, "forwarded", lines, TRUSTED) == "192.0.2.1"


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=200))
def test_nothing_that_a_client_invents_changes_who_it_is(invented: str) -> None:
    for header, said in (("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")):
        assert client_of(PROXY, header, [f"{invented},{said}"], TRUSTED) == "192.0.2.1"


def test_who_is_not_trusted_is_not_asked() -> None:
    assert client_of("192.0.2.9:1", "x-forwarded-for", ["203.0.113.9"], TRUSTED) == "192.0.2.9:1"


def test_a_proxy_on_a_unix_socket_is_heard_when_it_is_trusted() -> None:
    assert client_of("unix", "x-forwarded-for", ["192.0.2.1"], TRUSTED) == "192.0.2.1"


def test_the_walk_ends_after_so_many_proxies() -> None:
    lines = ["192.0.2.1" + ", 10.0.0.9" * MAX_HOPS]
    assert client_of(PROXY, "x-forwarded-for", lines, TRUSTED) == "10.0.0.9"


@pytest.mark.parametrize(
    "bomb",
    ["," * 16_000, "; " * 8_000, 'a="' * 5_000, "for=10.0.0.1" + " ;  " * 4_000, "a=b;" * 4000],
)
def test_a_head_full_of_nonsense_costs_little(bomb: str) -> None:
    begun = time.thread_time()
    for header in ("forwarded", "x-forwarded-for"):
        client_of(PROXY, header, [bomb], TRUSTED)
    assert time.thread_time() - begun < 0.5
