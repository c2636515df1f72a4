"""`trioserver secret`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Invoke
from trioserver.auth import Key


def test_it_prints_one_line_that_is_a_good_secret(invoke: Invoke) -> None:
    result = invoke("secret")
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert Key.secret(result.stdout.strip()).algorithms == ("HS256", "HS384", "HS512")


def test_two_are_never_the_same(invoke: Invoke) -> None:
    assert invoke("secret").stdout != invoke("secret").stdout


def test_its_length_can_be_chosen(invoke: Invoke) -> None:
    assert len(invoke("secret", "--bytes", "96").stdout.strip()) == 128


@pytest.mark.parametrize("number", ["31", "1025", "many"])
def test_a_length_that_is_no_good_is_a_wrong_command_line(invoke: Invoke, number: str) -> None:
    result = invoke("secret", "--bytes", number)
    assert result.exit_code == 2
    assert "--bytes" in result.stderr
