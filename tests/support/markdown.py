"""Code blocks of Markdown files, for running them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.patience import PATIENCE

ROOT = Path(__file__).parents[2]


def blocks(path: Path, language: str) -> list[str]:
    """The contents of a file's fenced blocks of one language; the path is from the root."""
    text = (ROOT / path).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{path} has no blocks of {language}"
    return [str(block) for block in found]


def output_of(program: str, folder: Path) -> str:
    """What a Python program prints, run in this folder; neither it nor a warning may fail."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
