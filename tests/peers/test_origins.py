"""Which pages may connect, and what an operator is told about those that may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.peers.origins import OriginPolicy, RejectedOrigin


def judge(
    origin: str, *allowed: str, host: str = "example.org", secure: bool = False
) -> RejectedOrigin | None:
    return OriginPolicy(allowed).rejection((origin,), (host,), secure=secure)


def hint(origin: str, *allowed: str, host: str = "api.test", secure: bool = False) -> str | None:
    rejected = judge(origin, *allowed, host=host, secure=secure)
    assert rejected is not None
    return rejected.hint


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://example.org", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("https://example.org", "HTTPS://EXAMPLE.ORG"),
        ("https://example.org:443", "https://example.org"),
        ("https://example.org", "https://example.org:443"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:5173", "http://[0:0:0:0:0:0:0:1]:5173"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:80"),
        ("https://a.example.org", "https://*.example.org"),
        ("https://a.b.example.org", "https://*.example.org"),
        ("https://a.example.org:8443", "https://*.example.org:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("null", "null"),
        ("null", "*"),
        ("anything at all", "*"),
    ],
)
def test_an_origin_on_the_list_may_connect(origin: str, allowed: str) -> None:
    assert judge(origin, allowed, host="other.test") is None


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://evilexample.org", "https://example.org"),
        ("https://evilexample.org", "https://*.example.org"),
        ("https://example.org.evil.com", "https://example.org"),
        ("https://example.org.evil.com", "https://*.example.org"),
        ("https://a.example.org", "https://example.org"),
        ("https://example.org", "https://*.example.org"),
        ("https://.example.org", "https://*.example.org"),
        ("https://*.example.org", "https://*.example.org"),
        ("https://example.org@evil.com", "https://example.org"),
        ("https://user@example.org", "https://example.org"),
        ("https://evil.com#.example.org", "https://*.example.org"),
        ("https://evil.com/.example.org", "https://*.example.org"),
        ("https://evil.com?.example.org", "https://*.example.org"),
        ("https://evil.com\\.example.org", "https://*.example.org"),
        ("https://evil.com%2f.example.org", "https://*.example.org"),
        ("https://evil.com:443.example.org", "https://*.example.org"),
        ("http://a.example.org", "https://*.example.org"),
        ("https://a.example.org:8443", "https://*.example.org"),
        ("http://example.org", "https://example.org"),
        ("https://example.org:8443", "https://example.org"),
        ("https://example.org.", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("https://example.org https://evil.com", "https://example.org"),
        ("https://example.org:0", "https://example.org"),
        ("https://example.org:65536", "https://example.org"),
        ("https://example.org:", "https://example.org"),
        ("https://example.org:٤٤٣", "https://example.org"),
        ("https://", "https://example.org"),
        ("example.org", "https://example.org"),
        ("//example.org", "https://example.org"),
        ("https://[::1", "https://[::1]"),
        ("https://::1", "https://[::1]"),
        ("https://[::1]evil.com", "https://[::1]"),
        ("http://127.0.0.1:5173", "http://localhost:5173"),
        ("null", "https://example.org"),
        ("Null", "null"),
        ("", "https://example.org"),
        (" https://example.org", "https://example.org"),
        ("https://example.org\n", "https://example.org"),
        ("same-host", "same-host"),
    ],
)
def test_an_origin_that_only_looks_like_it_may_not(origin: str, allowed: str) -> None:
    rejected = judge(origin, allowed, host="other.test")
    assert rejected is not None
    assert rejected.allowed == (allowed,)


@pytest.mark.parametrize(
    ("origin", "host", "secure", "may"),
    [
        ("http://example.org", "example.org", False, True),
        ("http://example.org:80", "EXAMPLE.org", False, True),
        ("http://example.org", "example.org:80", False, True),
        ("https://example.org", "example.org", True, True),
        ("https://example.org", "example.org", False, True),  # a proxy ends TLS
        ("https://example.org", "example.org:443", False, True),
        ("http://example.org", "example.org", True, False),
        ("http://[::1]:8765", "[0:0::1]:8765", False, True),
        ("http://127.0.0.1:8765", "127.0.0.1:8765", False, True),
        ("http://localhost:8765", "127.0.0.1:8765", False, False),
        ("http://example.org:8765", "example.org", False, False),
        ("http://evil.com", "example.org", False, False),
        ("ws://example.org", "example.org", False, True),  # of clients that name what they open
        ("wss://example.org", "example.org:443", True, True),
        ("ws://example.org", "example.org", True, False),
        ("wss://evil.com", "example.org", True, False),
        ("file://", "example.org", False, False),
        ("file://example.org", "example.org", False, False),
        ("null", "null", False, False),
        ("http://example.org", "evil.com, example.org", False, False),
        ("http://example.org", "user@example.org", False, False),
        ("http://example.org", "", False, False),
    ],
)
def test_without_a_list_the_host_that_is_connected_to_is_meant(
    origin: str, host: str, secure: bool, may: bool
) -> None:
    assert (judge(origin, host=host, secure=secure) is None) is may


def test_same_host_may_stand_beside_others() -> None:
    allowed = ("same-host", "https://a.test")
    assert judge("http://example.org", *allowed) is None
    assert judge("https://a.test", *allowed) is None
    assert judge("https://b.test", *allowed) is not None


def test_who_sends_no_origin_is_no_page() -> None:
    assert OriginPolicy([]).rejection((), ("example.org",), secure=False) is None


def test_two_origins_are_none() -> None:
    origins = ("http://example.org", "http://example.org")
    assert OriginPolicy([]).rejection(origins, ("example.org",), secure=False) is not None


@pytest.mark.parametrize(
    ("origin", "allowed", "said"),
    [
        ("http://127.0.0.1:5173", "http://localhost:5173", "localhost and its addresses are diff"),
        ("http://localhost:5173", "http://127.0.0.1:5173", "localhost and its addresses are diff"),
        ("http://[::1]:5173", "http://localhost:5173", "http://[::1]:5173 is another origin"),
        ("http://example.org", "https://example.org", "the scheme differs"),
        ("http://example.org:8080", "https://example.org:8080", "the scheme differs"),
        ("https://example.org:8443", "https://example.org", "the port differs"),
        ("https://www.example.org", "https://example.org", "'www.'"),
        ("https://example.org/", "https://example.org", "no slash at its end"),
        ("https://example.org", "https://*.example.org", "allows the hosts below example.org"),
        ("null", "https://example.org", "the page has no origin"),
        ("https://exa mple.org", "https://example.org", "this is not an origin"),
    ],
)
def test_the_likely_mistake_is_named(origin: str, allowed: str, said: str) -> None:
    assert said in (hint(origin, allowed) or "")


def test_the_likely_mistake_is_named_where_the_host_is_compared() -> None:
    text = hint("http://localhost:8765", host="127.0.0.1:8765")
    assert text is not None
    assert "http://127.0.0.1:8765 is allowed, http://localhost:8765 is another origin" in text
    assert "over http" in (hint("http://api.test", secure=True) or "")


def test_another_name_of_this_machine_is_likelier_than_another_port() -> None:
    allowed = ("same-host", "http://localhost:5173")
    text = hint("http://127.0.0.1:5173", *allowed, host="127.0.0.1:8765")
    assert "localhost and its addresses are different origins: http://localhost:5173" in (
        text or ""
    )


def test_a_stranger_gets_no_hint() -> None:
    assert hint("https://evil.com", "https://example.org") is None
    assert hint("https://evil.com:8443", "http://example.org:5173", "https://*.a.test") is None


def test_a_long_origin_is_cut_for_the_log() -> None:
    rejected = judge("https://" + "a" * 10_000, "https://example.org")
    assert rejected is not None
    assert len(rejected.origin) < 310


def test_a_long_origin_is_judged_by_its_length_alone() -> None:
    """Sixteen KiB of dots took 45 ms of everybody's time, before anybody was authenticated."""
    below = "https://" + "a." * 136 + "example.org"
    assert len(below) <= 300
    assert judge(below, "https://*.example.org") is None
    for origin in ("https://" + "a." * 150 + "example.org", "https://" + "a." * 8000 + "evil"):
        rejected = judge(origin, "https://*.example.org")
        assert rejected is not None
        assert rejected.hint == "an origin has at most 300 characters"
    assert judge("http://" + "a" * 400, host="a" * 400) is not None


def test_pages_from_files_can_be_allowed() -> None:
    assert judge("file://", "https://example.org", "file://") is None
    assert "allow 'file://'" in (hint("file://", "https://example.org") or "")
    assert judge("null", "file://") is not None
    assert judge("file:///etc/passwd", "file://") is not None
    assert "allow 'null'" in (hint("null", "file://") or "")


def test_an_origin_of_a_websocket_counts_as_that_of_its_page() -> None:
    assert judge("wss://example.org", "https://example.org") is None
    assert judge("https://example.org", "wss://example.org") is None
    assert judge("ws://a.example.org", "http://*.example.org") is None
    assert judge("ws://example.org", "https://example.org") is not None
    said = hint("wss://example.org:8443", "wss://example.org") or ""
    assert "https://example.org is allowed, https://example.org:8443 is another origin" in said


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("https://example.org/", "leave out the slash"),
        ("example.org", "write a scheme and a host"),
        ("https://bücher.example", "in ASCII"),
        ("https://example.org/path", "write a scheme, a host and"),
        ("https://*", "write a scheme, a host and"),
        ("https://a.*.org", "write a scheme, a host and"),
        ("https://*.0.0.1", "before a domain"),
        ("https://*..org", "before a domain"),
        ("https://example.org:99999", "write a scheme, a host and"),
        ("", "write a scheme and a host"),
    ],
)
def test_what_is_no_origin_in_a_list_is_said(entry: str, advice: str) -> None:
    with pytest.raises(ValueError, match="is not an origin") as caught:
        OriginPolicy([entry])
    assert advice in str(caught.value)


def test_a_text_is_no_list() -> None:
    with pytest.raises(ValueError, match="must be a list"):
        OriginPolicy("https://example.org")


@given(st.text(max_size=60))
def test_whatever_is_sent_is_judged(text: str) -> None:
    policy = OriginPolicy(["https://example.org", "https://*.example.org", "same-host"])
    rejected = policy.rejection((text,), ("example.org",), secure=True)
    assert rejected is not None or text.lower().endswith(("example.org", "example.org:443"))
