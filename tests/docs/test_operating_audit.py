"""The commands in the sections Audit and Administration of docs/operating.md."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Invoke, clean_environment, invoke  # noqa: F401 -- fixtures
from tests.support.markdown import ROOT

OPERATING = (ROOT / "docs/operating.md").read_text()


def section(name: str) -> str:
    (found,) = re.findall(rf"^## {name}$(.*?)(?=^## |\Z)", OPERATING, re.MULTILINE | re.DOTALL)
    return str(found)


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(name), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["Audit", "Administration"])
def test_the_commands_have_the_options_that_are_shown(
    name: str,
    invoke: Invoke,  # noqa: F811
) -> None:
    (script,) = blocks(name, "sh")
    commands = re.findall(r"^trioserver ((?:admin |audit).*)$", script, re.MULTILINE)
    assert commands
    for command in commands:
        words = [word.strip('"') for word in command.split()]
        result = invoke(*words, "--help")
        assert result.exit_code == 0, result.output
        for option in (word for word in words if word.startswith("--")):
            assert option in result.stdout, command
