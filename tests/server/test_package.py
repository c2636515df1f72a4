"""The package's own names, each of which is imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trioserver
from tests.support.patience import PATIENCE


@pytest.mark.parametrize("name", trioserver.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(trioserver, name) is not None
    assert name in dir(trioserver)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        trioserver.nothing  # noqa: B018


def test_importing_the_package_imports_no_server() -> None:
    code = "import sys, trioserver; print('trio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout == "False\n"
