"""What is written down of a token."""

from __future__ import annotations

import hashlib

from trioserver.auth.fingerprint import SHORT, fingerprint

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


def test_who_has_the_token_can_make_its_fingerprint_again() -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    assert fingerprint(TOKEN) == f"sha256:{digest[:12]}"


def test_a_fingerprint_tells_tokens_apart() -> None:
    assert len({fingerprint(f"{TOKEN}{number}") for number in range(1000)}) == 1000


def test_nothing_is_told_of_a_token_that_might_be_guessed() -> None:
    assert {fingerprint(f"{number:06}") for number in range(10)} == {SHORT}
    assert fingerprint("a" * 31) == SHORT


def test_no_token_has_no_fingerprint() -> None:
    assert fingerprint(None) is None
    assert fingerprint("") is None
    assert fingerprint(17) is None


def test_a_token_that_is_no_unicode_has_one() -> None:
    assert str(fingerprint("\ud800" * 40)).startswith("sha256:")
