"""What the guide to the pages says is there."""

from __future__ import annotations

import re

import pytest

from tests.support.markdown import ROOT
from trioserver.examples import website

SECTION = (ROOT / "docs" / "systems.md").read_text().partition("\n## The pages\n")[2]
TESTS = re.findall(r"`(test_\w+\.py|conftest\.py)::(\w+)`", SECTION)


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_a_test_that_it_names_exists(file: str, name: str) -> None:
    assert f"\ndef {name}(" in (ROOT / "tests" / "browser" / file).read_text()


def test_it_tells_of_every_page_with_pictures_that_are_small() -> None:
    assert len(TESTS) > 10
    assert set(re.findall(r"^\| `/(\w+)` \|", SECTION, re.MULTILINE)) == set(website.PAGES)
    pictures = re.findall(r"!\[[^\]]+\]\((images/[\w-]+\.png)\)", SECTION)
    assert {f"images/{file.name}" for file in (ROOT / "docs/images").glob("*.png")} == set(pictures)
    assert all((ROOT / "docs" / picture).stat().st_size < 100_000 for picture in pictures)
