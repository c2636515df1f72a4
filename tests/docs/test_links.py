"""Links in Markdown files lead to files and headings that exist."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.support.markdown import ROOT

_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def documents() -> list[str]:
    folders = (ROOT / "docs", ROOT / "tests")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    names = (path.relative_to(ROOT) for path in found)
    return sorted(str(name) for name in names if "node_modules" not in name.parts)


@cache
def prose(path: Path) -> str:
    """The text of a file without its fenced blocks, in which ``#`` begins a comment."""
    return _FENCED.sub("", path.read_text())


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a file."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(path), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return frozenset(found)


def links(path: Path) -> list[str]:
    """The targets of the links and pictures in a file, except those to other sites."""
    return re.findall(r"\]\((?!https?:)([^)\s]+)", prose(path))


@pytest.mark.parametrize("document", documents())
def test_each_link_leads_to_a_file_and_a_heading_that_exist(document: str) -> None:
    path = ROOT / document
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{document} links to {link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{document} links to {link}: no such heading"


def test_the_documents_have_links_of_both_kinds() -> None:
    found = [link for document in documents() for link in links(ROOT / document)]
    assert any("#" in link for link in found)
    assert any("#" not in link for link in found)
