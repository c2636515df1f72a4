"""What docs/operating.md says to write into files, read as the server reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, blocks, output_of
from tests.support.patience import PATIENCE
from trioserver.cli.settings.loading import load_settings

OPERATING = Path("docs/operating.md")
PRINTED = {'name="export"': "['export']\n", 'user="mallory", reason': "0 ['mallory']\n1\n"}
"""What the programs with these lines print last."""

DEPLOY = ROOT / "docs" / "deploy"


@pytest.mark.parametrize("block", blocks(OPERATING, "toml"))
def test_every_configuration_is_one(block: str, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(block)
    settings = load_settings(path)
    assert any(setting.origin for setting in settings.settings), "it sets something"


@pytest.mark.parametrize("block", blocks(OPERATING, "python"))
def test_every_program_runs(block: str, tmp_path: Path) -> None:
    printed = output_of(block, tmp_path)
    for line, end in PRINTED.items():
        if line in block:
            assert printed.endswith(end)


@pytest.mark.parametrize("line", PRINTED)
def test_the_programs_that_print_are_there(line: str) -> None:
    assert sum(line in block for block in blocks(OPERATING, "python")) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_units_are_understood_by_systemd(tmp_path: Path) -> None:
    for kind in ("service", "socket"):
        text = (DEPLOY / f"trioserver.{kind}").read_text()
        text = text.replace(
            "/opt/chat/venv/bin/trioserver", f"{Path(sys.executable).parent}/trioserver"
        )
        (tmp_path / f"chat.{kind}").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(tmp_path / "chat.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "chat." in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def test_the_image_does_not_run_as_root_and_is_looked_after() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.index("USER 10001") > text.index("RUN ")
    assert "/healthz" in text
    assert 'CMD ["trioserver", "serve", "chat:app"]' in text, "else signals go to a shell"
