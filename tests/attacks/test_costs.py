"""Whoever sends what is dear to judge pays for it; others hardly notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.costs import HEADS, MESSAGES, PIECES, send_heads, send_messages, send_pieces
from tests.attacks.field import Field, field
from tests.attacks.figures import Figures, percentile
from tests.attacks.test_requests import in_words

pytestmark = pytest.mark.attack

SECONDS = 6.0
MOST = 20.0  # ms, of the median of those who mean well


def share(place: Field, before: float) -> str:
    """How much of a core the server took: what others do on the machine changes that least."""
    return f"{(place.cpu() - before) / SECONDS:.0%} of a core"


@pytest.mark.parametrize("kind", MESSAGES)
async def test_messages_that_are_dear_to_judge(
    kind: str, tmp_path: Path, report: list[Figures]
) -> None:
    name = f"45 of one user, each with 1 MiB of {kind} at the same moment"
    async with field(tmp_path) as place:
        cpu = place.cpu()
        async with place.attack(name, most_memory=400, report=report) as figures:
            fared = await send_messages(place, MESSAGES[kind], 45, seconds=SECONDS)
            figures.notes.append(share(place, cpu))
            figures.notes.append(f"{fared.pop('messages'):,} messages")
            figures.notes += (f"{count:,} closed: `{end}`" for end, count in fared.most_common(3))
        assert percentile(figures.answers, 0.5) < MOST


@pytest.mark.parametrize("kind", PIECES)
async def test_pieces_of_a_few_bytes(kind: str, tmp_path: Path, report: list[Figures]) -> None:
    name = f"8 that send {kind}"
    async with field(tmp_path) as place:
        cpu = place.cpu()
        async with place.attack(name, most_memory=100, report=report) as figures:
            fared = await send_pieces(place, PIECES[kind], 8, seconds=SECONDS)
            figures.notes.append(share(place, cpu))
            figures.notes.append(f"{fared.pop('sent'):,} sends")
            figures.notes += (f"{count:,} ended: `{end}`" for end, count in fared.most_common(3))
        assert percentile(figures.answers, 0.5) < MOST


@pytest.mark.parametrize("kind", HEADS)
async def test_heads_that_are_dear_to_judge(
    kind: str, tmp_path: Path, report: list[Figures]
) -> None:
    name = f"8 that open with {kind}"
    allow = "same-host,https://*.example.org"
    async with field(tmp_path, origins_allow=allow, proxy_trusted="127.0.0.0/8") as place:
        cpu = place.cpu()
        async with place.attack(name, most_memory=100, report=report) as figures:
            answers = await send_heads(place, HEADS[kind], 8, seconds=SECONDS)
            figures.notes += [share(place, cpu), *in_words(answers)]
        assert percentile(figures.answers, 0.5) < MOST
        assert answers
