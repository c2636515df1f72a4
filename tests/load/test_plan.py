"""What is to be done, and how processes share it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.load.plans import plan_for
from trioserver.client import WebSocketURL
from trioserver.load.file_limit import FileLimitError, raise_file_limit
from trioserver.load.plan import Plan, Tokens
from trioserver.load.requests import MAX_IN_FLIGHT, Requests
from trioserver.websocket.frames import FrameDecoder


def test_processes_share_clients_and_rates_and_leave_nothing_over() -> None:
    plan = plan_for(1, clients=10, processes=3, rate=100.0, loop="open", connect_rate=50.0,
                    slow_readers=2)  # fmt: skip
    shares = [plan.share(index) for index in range(3)]
    assert [share.first for share in shares] == [0, 3, 6]
    assert sum(share.clients for share in shares) == 10
    assert sum(share.rate for share in shares) == pytest.approx(100.0)
    assert sum(share.connect_rate or 0 for share in shares) == pytest.approx(50.0)
    assert sum(share.slow_readers for share in shares) == 2
    assert all(share.first_slow >= 10 for share in shares)


def test_only_the_first_clients_publish_and_their_process_has_the_rate() -> None:
    plan = plan_for(1, clients=10, processes=2, rate=8.0, loop="open", topic="news")
    assert [plan.share(index).senders for index in range(2)] == [1, 0]
    assert [plan.share(index).rate for index in range(2)] == [8.0, 0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://127.0.0.1/"}, "ws://"),
        ({"url": "ws://host-{client}/"}, "not in its host"),
        ({"processes": 21}, "each process needs a client"),
        ({"topic": "news", "publishers": 20}, "use more clients"),
        ({"data": '{"text": '}, "not valid JSON"),
        ({"data": "[" * 100_000}, "not valid JSON"),
    ],
)
def test_what_does_not_fit_together_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_for(1, **options)


def test_a_plan_travels_to_a_process_and_shows_no_secret() -> None:
    plan = plan_for(1, tokens=Tokens(secret="hush", fixed="hush", lines=("hush",)))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    assert "hush" not in repr(plan)


def test_each_client_has_its_own_path() -> None:
    assert plan_for(8765).url_of(7) == WebSocketURL.parse("ws://127.0.0.1:8765/ws/rooms/7")


def _sent(requests: Requests, number: int, sequence: int) -> Any:
    (message,) = FrameDecoder(masked=True, max_message_bytes=2**20).receive(
        requests.frame(number, sequence, 0.5)
    )
    assert isinstance(message, bytes)
    return json.loads(message)


def test_placeholders_become_numbers() -> None:
    requests = Requests(plan_for(1, type="echo", data='{"n": {seq}, "who": "user {client}"}'))
    assert _sent(requests, 3, 12)["data"] == {"n": 12, "who": "user 3"}


def test_without_placeholders_frames_are_made_once_and_ids_come_round() -> None:
    requests = Requests(plan_for(1, type="echo", data='{"text":"x"}'))
    assert requests.frame(1, 5, 0.0) is requests.frame(2, 5 + MAX_IN_FLIGHT, 1.0)
    ids = {_sent(requests, 1, n)["id"] for n in range(MAX_IN_FLIGHT)}
    assert len(ids) == MAX_IN_FLIGHT


def test_an_event_says_when_it_was_due() -> None:
    message = _sent(Requests(plan_for(1, topic="news", data='"{client}"')), 0, 0)
    assert message["data"] == {"due": 0.5, "data": "0"}
    assert message["topic"] == "news"


def test_more_files_than_there_can_be_are_refused_with_advice() -> None:
    with pytest.raises(FileLimitError, match="ulimit"):
        raise_file_limit(2**62)
