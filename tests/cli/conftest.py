"""Runs commands in this process, with none of the environment's TRIOSERVER_* variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

from trioserver.cli.main import main

Invoke: TypeAlias = Callable[..., Result]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TRIOSERVER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def invoke(clean_environment: None) -> Invoke:
    """`invoke("token", "make", "alice", input=...)` is the command's `click.testing.Result`."""

    def run(*arguments: str, **options: Any) -> Result:
        # A traceback is a bug: let it through, rather than compare it with an exit code.
        options.setdefault("catch_exceptions", False)
        return CliRunner().invoke(main, arguments, prog_name="trioserver", **options)

    return run
