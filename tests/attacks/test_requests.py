"""Requests beyond any limit, and such that two parsers would read in two ways."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.attacks.field import field
from tests.attacks.figures import Figures
from tests.attacks.peers import get
from tests.attacks.requests import AMBIGUOUS, HEADER_BOMBS, TOO_LARGE, send_all

pytestmark = pytest.mark.attack

SECONDS = 6.0
ATTACKERS = 100


async def test_requests_larger_than_any_limit(tmp_path: Path, report: list[Figures]) -> None:
    name = "100 that send messages and bodies larger than any limit"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=300, report=report) as figures:
            answers = await send_all(place, TOO_LARGE, ATTACKERS, seconds=SECONDS)
            figures.notes += in_words(answers)
        assert set(answers) <= {"1009 message_too_big", "1002 protocol_error", "413", "cut off"}
        assert answers["1009 message_too_big"] > 0


async def test_header_bombs(tmp_path: Path, report: list[Figures]) -> None:
    async with field(tmp_path) as place:
        async with place.attack(
            "100 that send header bombs", most_memory=100, report=report
        ) as figures:
            answers = await send_all(place, HEADER_BOMBS, ATTACKERS, seconds=SECONDS)
            figures.notes += in_words(answers)
        assert set(answers) <= {"431", "400", "414", "cut off"}


async def test_smuggled_requests_reach_nobody(tmp_path: Path, report: list[Figures]) -> None:
    async with field(tmp_path) as place:
        async with place.attack(
            "100 that smuggle requests", most_memory=100, report=report
        ) as figures:
            answers = await send_all(place, AMBIGUOUS, ATTACKERS, seconds=SECONDS)
            seen = await get(place.target, "/seen")
            figures.notes += [*in_words(answers), "none reached the application"]
        assert seen == ""
        assert set(answers) <= {"400", "cut off"}
        assert answers["400"] > 100


def in_words(answers: Counter[str]) -> list[str]:
    """The commonest first."""
    return [f"{number:,} answered {answer}" for answer, number in answers.most_common(4)]
