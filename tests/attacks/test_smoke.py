"""Each kind of attack at a hundredth of its size, on one server, so that it keeps working."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.attacks import costs, silence, tokens
from tests.attacks.field import Field, field
from tests.attacks.figures import Figures, percentile, write
from tests.attacks.greed import (
    SLOW,
    ask_and_read_nothing,
    hear_and_read_nothing,
    send_at_full_speed,
    subscribe_to_many,
)
from tests.attacks.peers import get
from tests.attacks.requests import AMBIGUOUS, HEADER_BOMBS, TOO_LARGE, send_all

SILENT = (
    silence.say_nothing,
    silence.upgrade_and_say_nothing,
    silence.send_a_head_slowly,
    silence.half_close,
    silence.upgrade_and_half_close,
    silence.get_ready_and_half_close,
)


async def test_attacks_on_a_small_scale(tmp_path: Path) -> None:
    async with field(tmp_path, plan={"clients": 2, "pause": 0.01}, send_queue_max_age=0.3) as place:
        report: list[Figures] = []
        async with (
            place.attack("all at once", most_memory=100, report=report),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_be_silent, place)
            nursery.start_soon(_be_greedy, place)
            nursery.start_soon(_send_requests, place)
            nursery.start_soon(_send_tokens, place)
            nursery.start_soon(_send_what_is_dear, place)
        (figures,) = report
        assert figures.answers[0] > 0
        assert figures.rss_most >= figures.rss_before > 10


async def _send_tokens(place: Field) -> None:
    fared, _ = await tokens.reconnect_at_once(place, 10)
    assert fared == {"ready": 10}
    fared = await tokens.flood(place, 2, tokens.expired, addresses=1, seconds=0.2)
    assert set(fared) <= {"token_expired"}, "none at all on a machine that is busy"


async def _send_what_is_dear(place: Field) -> None:
    for message in costs.MESSAGES.values():
        assert (await costs.send_messages(place, message, 1, seconds=0.7)).total() >= 0
    for pieces in costs.PIECES.values():
        await costs.send_pieces(place, pieces, 1, seconds=0.2)
    for head in costs.HEADS.values():
        assert set(await costs.send_heads(place, head, 1, seconds=0.2)) <= {
            "101", "400", "403", "404", "431", "429", "cut off",
        }  # fmt: skip


async def _be_silent(place: Field) -> None:
    for behave in SILENT:
        assert await silence.crowd(place, 10, behave, addresses=4, seconds=0.3) > 0


async def _be_greedy(place: Field) -> None:
    await ask_and_read_nothing(place, 2)
    await hear_and_read_nothing(place, 5)
    assert (await place.metrics())[SLOW] == 7
    counts = await send_at_full_speed(place, 1, seconds=0.3)
    assert counts["answers"] + counts["requests"] > 0
    assert await subscribe_to_many(place, 2, 100) == {"ack": 200, "held": 200}


async def _send_requests(place: Field) -> None:
    await send_all(place, TOO_LARGE, 7, seconds=0.2)
    await send_all(place, HEADER_BOMBS, 5, seconds=0.2)
    answers = await send_all(place, AMBIGUOUS, 10, seconds=0.3)
    assert set(answers) <= {"400", "cut off"}
    assert await get(place.target, "/seen") in ("", "/x"), "/x is of the large ones"


def test_a_row_takes_the_place_of_the_one_with_its_name(tmp_path: Path) -> None:
    document = tmp_path / "operating.md"
    document.write_text("a\n<!-- attacks: made by `make attacks` -->\n<!-- end of attacks -->\nb\n")
    write([Figures(name="one"), Figures(name="two", answers=[1.0, 2.0, 30.0])], document)
    write([Figures(name="one", notes=["again"])], document)
    text = document.read_text()
    assert text.startswith("a\n<!--")
    assert text.endswith("-->\nb\n")
    rows = [line for line in text.splitlines() if line.startswith(("| one", "| two"))]
    assert rows == [
        "| one | 0 | -, -, - | 0, - | 0, 0, 0 | 0.0 | again |",
        "| two | 3 | 2.0, 30, 30 | 0, - | 0, 0, 0 | 0.0 |  |",
    ]


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert percentile([1.0], 0.01) == 1.0
