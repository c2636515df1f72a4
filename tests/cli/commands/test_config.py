"""`trioserver config`, and the reference in docs/ that it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cli.conftest import Invoke
from trioserver import AuthConfig
from trioserver.cli.settings.options import OPTIONS

REFERENCE = Path(__file__).parents[3] / "docs" / "configuration.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text("[trioserver]\nport = 1\n[trioserver.auth]\ntimeout = 7.5\n")
    return path


def row(table: str, name: str) -> list[str]:
    (found,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
    return found.split()


def test_all_options_are_listed_with_value_unit_and_origin(invoke: Invoke) -> None:
    table = invoke("config", env={"COLUMNS": "80"}).stdout
    assert row(table, "heartbeat.interval") == ["heartbeat.interval", "30", "s", "default"]
    assert row(table, "limits.max_in_flight")[1:] == ["256", "requests", "default"]
    assert [option.path for option in OPTIONS if f"\n{option.path} " not in table] == []
    assert max(map(len, table.splitlines())) <= 80


def test_a_changed_value_is_shown_with_its_origin_and_the_default(
    invoke: Invoke, file: Path
) -> None:
    result = invoke(
        "config",
        "--config",
        str(file),
        "--host",
        "::1",
        env={"COLUMNS": "300", "TRIOSERVER_HEARTBEAT_TIMEOUT": "3"},
    )
    table = result.stdout
    assert " ".join(row(table, "host")) == "host ::1 --host (default 127.0.0.1)"
    assert " ".join(row(table, "port")) == f"port 1 {file}: trioserver.port (default 8765)"
    assert " ".join(row(table, "heartbeat.timeout")) == (
        "heartbeat.timeout 3 s TRIOSERVER_HEARTBEAT_TIMEOUT (default 10)"
    )


def test_the_file_may_be_named_by_the_environment(invoke: Invoke, file: Path) -> None:
    table = invoke("config", env={"TRIOSERVER_CONFIG": str(file)}).stdout
    assert row(table, "auth.timeout")[1] == "7.5"


def test_listeners_of_the_file_are_listed(invoke: Invoke, file: Path) -> None:
    file.write_text("[[trioserver.listen]]\nport = 1\n[[trioserver.listen]]\nport = 2\n")
    table = invoke("config", "--config", str(file)).stdout
    assert row(table, "listen[0].port")[1] == "1"
    assert row(table, "listen[1].port")[1] == "2"


@pytest.mark.parametrize("options", [[], ["--explain"], ["--json"]])
def test_secrets_are_masked(invoke: Invoke, options: list[str]) -> None:
    env = {"TRIOSERVER_SECRET": "the-secret", "TRIOSERVER_TOKEN": "the-token"}
    output = invoke("config", *options, env=env).output
    assert "the-secret" not in output
    assert "the-token" not in output
    if "--explain" not in options:
        assert output.count("***") == 2


def test_explain_says_what_each_option_is_for(invoke: Invoke) -> None:
    text = " ".join(invoke("config", "--explain").stdout.split())
    for option in OPTIONS:
        assert option.help in text
        assert option.variable in text
        assert option.bounds.capitalize() in text


def test_json_has_all_that_is_known(invoke: Invoke, file: Path) -> None:
    printed: dict[str, Any] = json.loads(
        invoke("config", "--json", "--config", str(file), env={"TRIOSERVER_PROT": "1"}).stdout
    )
    options = {option["name"]: option for option in printed["options"]}
    assert set(options) == {option.path for option in OPTIONS}
    assert options["auth.timeout"] == {
        "name": "auth.timeout",
        "value": 7.5,
        "default": 10.0,
        "unit": "s",
        "low": 0.1,
        "high": 300.0,
        "origin": f"{file}: trioserver.auth.timeout",
        "key": "trioserver.auth.timeout",
        "variable": "TRIOSERVER_AUTH_TIMEOUT",
        "help": attrs.fields(AuthConfig).timeout.metadata["help"],
    }
    assert options["host"]["origin"] is None
    assert "TRIOSERVER_PROT" in printed["notes"][0]


def test_a_wrong_value_is_one_sentence_and_exit_code_3(invoke: Invoke) -> None:
    result = invoke("config", env={"TRIOSERVER_PORT": "http"})
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == (
        "trioserver: TRIOSERVER_PORT is 'http'; it must be a whole number from 0 to 65535\n"
    )


def test_the_reference_in_docs_is_current(invoke: Invoke) -> None:
    made = invoke("config", "--markdown").stdout
    assert REFERENCE.read_text() == made, "trioserver config --markdown > docs/configuration.md"


def test_the_reference_has_every_option_with_default_bounds_and_variable(invoke: Invoke) -> None:
    lines = invoke("config", "--markdown").stdout.splitlines()
    for option in OPTIONS:
        (line,) = (line for line in lines if f"| `{option.variable}` |" in line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == f"`{option.info.name}`"
        assert cells[1] == option.shown(option.default)
        assert cells[2] == option.bounds
        assert cells[4].startswith(option.help[:10])
