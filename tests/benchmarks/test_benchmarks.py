"""The peers of the benchmarks speak the protocol. Nothing here looks at how long anything takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import attrs
import pytest

pytest.importorskip("psutil", reason="the extra `bench` is not installed")

from tests.benchmarks.clients import Clients
from tests.benchmarks.generator import Failed, run
from tests.benchmarks.goals import GOALS
from tests.benchmarks.report import markdown
from tests.benchmarks.results import Measurement, Results
from tests.benchmarks.rows import ROWS
from tests.benchmarks.servers import BY_NAME, PEERS, Peer, Server, World
from tests.benchmarks.wire import Reader, Refused, Requests, frame

ALL_BUT_ECHO: Final = [peer for peer in PEERS if peer.speaks != "echo"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture(scope="module")
def server(world: World, request: pytest.FixtureRequest) -> Iterator[Server]:
    peer: Peer = request.param
    if peer.missing is not None:
        pytest.skip(f"{peer.name}: {peer.missing}")
    with world.start(peer) as server:
        yield server


def each(peers: list[Peer]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", peers, ids=lambda peer: peer.name, indirect=True)


@each(list(PEERS))
def test_it_answers_requests_in_order(server: Server) -> None:
    figures = run(server.job("closed", connections=3, in_flight=4, warmup=0.05, duration=0.1))
    assert figures["rate"] > 0


@each(ALL_BUT_ECHO)
def test_it_delivers_events_to_subscribers(server: Server) -> None:
    figures = run(server.job("fan_out", connections=3, warmup=0.05, duration=0.1))
    assert figures["rate"] > 0


@each(ALL_BUT_ECHO)
def test_its_ack_has_the_length_of_the_text(server: Server) -> None:
    with Clients(server.job("idle", connections=1)) as clients:
        clients.open(1)
        (client,) = clients.all
        answer = clients.ask(client, type="message", id=7, data={"text": "hello"})
    assert b'{"type":"ack","id":7,"data":{"length":5}}' in answer.replace(b" ", b"")


@each(ALL_BUT_ECHO)
def test_it_refuses_a_forged_token(server: Server) -> None:
    forged = attrs.evolve(server, secret="another secret of more than 32 bytes")
    with (
        Clients(forged.job("idle", connections=1)) as clients,
        pytest.raises(Refused, match="token_invalid"),
    ):
        clients.open(1)


@each(ALL_BUT_ECHO)
def test_it_refuses_the_room_of_somebody_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Clients(server.job("idle", connections=1))
    monkeypatch.setattr("tests.benchmarks.clients.upgrade", upgrade_to_another_room)
    with clients, pytest.raises(Refused, match="access_denied"):
        clients.open(1)


def upgrade_to_another_room(host: str, path: str) -> bytes:
    from tests.benchmarks.wire import upgrade

    return upgrade(host, "/ws/rooms/17")


def test_a_server_that_is_not_there_is_a_failure() -> None:
    nobody = Server(
        peer=BY_NAME["trioserver"], port=1, process=os.getpid(), secret="x" * 32, authority=None
    )
    with pytest.raises(Failed):
        run(nobody.job("closed", connections=1))


def test_the_reader_counts_frames_however_they_are_cut() -> None:
    data = b"".join(
        (b"\x81\x02hi", b"\x89\x01p", b"\x81\x7e\x01\x00" + b'{"id": 100017}'.ljust(256))
    )
    for cut in range(len(data)):
        reader = Reader()
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == 2
        assert reader.pings == [b"p"]
        assert reader.last_id() == 100_017


def test_requests_have_the_size_asked_for_and_begin_again() -> None:
    requests = Requests(90)
    assert len(requests.take(0, 1)) == len(frame(b"x" * 90))
    last = requests.numbers - 1
    assert requests.take(last, 2) == bytes(requests.take(last, 1)) + bytes(requests.take(0, 1))


def test_the_report_has_each_row_and_says_what_was_not_measured() -> None:
    measurements = [Measurement(row=row.name, peer="trioserver", round=0) for row in ROWS]
    results = Results(
        quick=False, rounds=1, machine={}, versions={}, missing={}, measurements=measurements
    )
    page = markdown(results, plot="plot.svg")
    assert page.count("\n## ") + page.count("\n### ") == len(ROWS) + 3
    assert page.count("| not measured |") == 2 * len(GOALS)
