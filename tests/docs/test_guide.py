"""The blocks of docs/guide.md, run as one program, as a reader would type them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.markdown import blocks

GUIDE = Path("docs/guide.md")


def test_the_guide_is_a_program_that_runs(tmp_path: Path) -> None:
    program = tmp_path / "guide.py"
    program.write_text("\n\n".join(blocks(GUIDE, "python")))
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "{'length': 5}" in done.stdout
    assert "[0, 1, 2]" in done.stdout
    assert "ServerStatistics(" in done.stdout
