"""The configuration in docs/operating.md is one that the server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.markdown import blocks
from trioserver.cli.settings import load_settings

TOML = [block for block in blocks(Path("docs/operating.md"), "toml") if "[trioserver" in block]


@pytest.mark.parametrize("number", range(len(TOML)))
def test_each_block_of_configuration_is_good(number: int, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(TOML[number])
    settings = load_settings(file)
    assert any(setting.origin for setting in settings.settings), "it sets something"
