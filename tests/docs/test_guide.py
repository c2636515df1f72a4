"""The blocks of docs/guide.md, run as one program, as a reader would type them."""

from __future__ import annotations

from pathlib import Path

from tests.support.markdown import blocks, output_of

GUIDE = Path("docs/guide.md")


def test_the_guide_is_a_program_that_runs(tmp_path: Path) -> None:
    printed = output_of("\n\n".join(blocks(GUIDE, "python")), tmp_path)
    assert "{'length': 5}" in printed
    assert "[{'ordered': 'a tree'}, {'ordered': 'a tree'}]" in printed
    assert "[0, 1, 2]" in printed
    assert "ServerStatistics(" in printed
