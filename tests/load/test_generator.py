"""Loads from this process on a server in this process, by real sockets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.load.app import SECRET
from tests.load.plans import at_once, load, plan_for, running
from tests.support.patience import PATIENCE
from trioserver import LimitsConfig, SendQueueConfig, ShutdownConfig
from trioserver.auth import make_token
from trioserver.load.generator import Generator
from trioserver.load.pacing import clock
from trioserver.load.plan import Tokens
from trioserver.load.sockets import Sockets
from trioserver.load.tokens import TokenError

ECHO: dict[str, Any] = {"type": "echo", "data": '{"text": "hello"}'}


@pytest.mark.parametrize("one_epoll", [True, False], ids=["one epoll", "a task each"])
async def test_in_a_closed_loop_each_answer_is_followed_by_a_request(one_epoll: bool) -> None:
    async with running() as server:
        outcome = await load(
            server.addresses[0].port or 0,
            sockets=Sockets(one_epoll=one_epoll),
            loop="closed",
            in_flight=4,
            clients=50,
            duration=0.5,  # long enough for a second request on a machine that is very busy
            **ECHO,
        )
    counts = outcome.counts
    assert counts.ready == counts.clients == 50
    assert counts.answered == counts.sent > 50 * 4
    assert counts.wrong == 0
    assert outcome.figures["request"]["count"] == counts.answered
    assert outcome.figures["ready"]["count"] == 50
    assert outcome.requests_per_second == pytest.approx(counts.in_window / 0.5)


async def test_in_an_open_loop_the_rate_is_kept_and_latency_counts_from_when_it_was_due() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        # Two clients, whose answers take 50 ms each, one after the other: the queue grows, and
        # with it what whoever asks at a steady pace has to wait.
        outcome = await load(port, loop="open", rate=100.0, clients=2, type="nap", data="0.05")
    assert outcome.counts.sent == 20
    assert outcome.counts.answered == 20
    figures = outcome.figures["request"]
    assert figures["p50_ms"] > 100
    assert figures["max_ms"] > 300
    assert outcome.figures["send_delay"]["count"] == 20


async def test_what_comes_while_it_warms_up_is_not_measured() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        outcome = await load(port, loop="open", rate=200.0, warmup=0.1, duration=0.1, **ECHO)
    assert outcome.counts.answered == 40
    assert outcome.figures["request"]["count"] == 20


async def test_subscribers_count_every_event_and_how_long_it_took() -> None:
    begun = clock()
    async with running() as server:
        port = server.addresses[0].port or 0
        outcome = await load(port, loop="open", rate=50.0, topic="news", clients=51)
    elapsed_ms = (clock() - begun) * 1000
    assert outcome.counts.answered == 10
    assert outcome.counts.delivered == 10 * 50
    assert outcome.counts.missed == 0
    assert outcome.figures["delivery"]["count"] == 500
    assert 0 < outcome.figures["delivery"]["max_ms"] < elapsed_ms


async def test_a_subscription_that_is_refused_is_counted_and_not_waited_for() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        with trio.fail_after(PATIENCE):
            outcome = await load(port, clients=5, topic="secrets", duration=0.0)
    assert outcome.counts.errors == {"forbidden": 4}


async def test_where_nobody_gets_ready_nothing_is_asked_and_it_ends_at_once() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        with trio.fail_after(PATIENCE):
            outcome = await load(
                port, tokens=Tokens(fixed="rubbish"), loop="open", rate=100.0, duration=60.0
            )
    assert outcome.counts.not_ready == outcome.counts.wrong == 20
    assert outcome.measured == 0.0


async def test_in_a_storm_all_are_dropped_and_all_come_back() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        outcome = await load(port, clients=50, storms=2, duration=0.0)
    assert outcome.figures["ready"]["count"] == 50
    assert outcome.figures["ready_again"]["count"] == 100
    assert (outcome.counts.ready, outcome.counts.wrong) == (50, 0)


async def test_connections_are_made_at_a_rate() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        before = clock()
        outcome = await load(port, clients=20, connect_rate=100.0, duration=0.0)
    elapsed_ms = (clock() - before) * 1000
    assert elapsed_ms > 190
    assert outcome.counts.ready == 20
    # Each from its own instant, of which half are in the second half.
    assert outcome.figures["ready"]["mean_ms"] < elapsed_ms - 90


async def test_those_who_never_read_are_counted_by_how_they_were_closed() -> None:
    send_queue = SendQueueConfig(max_bytes=24_000)  # and time for those who read on a busy machine
    async with running(send_queue=send_queue) as server:
        outcome = await load(
            server.addresses[0].port or 0,
            loop="open",
            rate=200.0,
            duration=0.5,
            topic="news",
            clients=3,
            slow_readers=3,
            data='"' + "x" * 16_000 + '"',
        )
    counts = outcome.counts
    assert counts.delivered == 2 * 100, "those who did not read are not counted with the others"
    assert counts.slow_readers == 3
    assert counts.slow_readers_open == 0
    # A server that cuts off in the middle of a message cannot say why.
    assert sum(counts.slow_closes.values()) == 3
    assert set(counts.slow_closes) <= {"4002 slow_consumer", "connection_lost", "connection_reset"}
    assert (counts.ready, counts.lost) == (3, 0), "the others do not mind"


async def test_tokens_that_end_are_replaced_on_the_same_connection() -> None:
    async with running() as server, trio.open_nursery() as nursery:
        port = server.addresses[0].port or 0
        tokens = Tokens(secret=SECRET, lifetime=2.001)  # warned of after a second
        generator = Generator(plan_for(port, tokens=tokens, duration=PATIENCE, clients=10))
        nursery.start_soon(generator.run, at_once)
        counts = generator.recorder.counts
        while counts.refreshed < 10:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (counts.ready, counts.lost) == (10, 0)
        nursery.cancel_scope.cancel()
    assert generator.recorder.latencies["refresh"].figures()["count"] == counts.refreshed


async def test_clients_that_are_refused_are_counted_by_code_and_not_tried_again() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        tokens = Tokens(lines=(make_token(SECRET, subject="a"), "rubbish"))
        outcome = await load(port, tokens=tokens, clients=10, duration=0.0)
    assert outcome.counts.failures == {"1008 token_invalid": 5}
    assert (outcome.counts.ready, outcome.counts.not_ready, outcome.counts.wrong) == (5, 5, 5)
    assert outcome.counts.retries == {}


async def test_a_busy_server_is_tried_again_until_the_time_is_up() -> None:
    async with running(limits=LimitsConfig(max_connections=5)) as server:
        port = server.addresses[0].port or 0
        patient = await load(port, clients=8, duration=0.0, ready_timeout=1.0)
        while server.statistics().open:  # noqa: ASYNC110 -- until the last of them has gone
            await trio.sleep(0.01)
        hasty = await load(port, clients=8, duration=0.0, retry=False)
    # Three find no place; on a busy machine others may be late as well.
    assert patient.counts.failures.keys() == {"ready_timeout"}
    assert patient.counts.not_ready == patient.counts.failures["ready_timeout"] >= 3
    assert sum(patient.counts.retries.values()) >= 3
    assert hasty.counts.not_ready >= 3  # more, where refused ones are still on their way out
    assert hasty.counts.retries == {}


async def test_errors_are_counted_by_code_and_their_time_is_not_a_latency() -> None:
    async with running() as server:
        port = server.addresses[0].port or 0
        outcome = await load(port, loop="open", rate=100.0, type="full")
    assert outcome.counts.errors == {"unavailable": 20}
    assert outcome.counts.wrong == 20
    assert "request" not in outcome.figures


async def test_answers_that_do_not_come_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trioserver.load.generator.GRACE", 0.1)
    async with running() as server:
        port = server.addresses[0].port or 0
        outcome = await load(port, loop="closed", clients=5, type="nap", data="60")
    assert outcome.counts.unanswered == 5


async def test_a_server_that_goes_takes_its_clients_with_it() -> None:
    shutdown = ShutdownConfig(drain_period=0.0)
    async with running(shutdown=shutdown) as server, trio.open_nursery() as nursery:
        port = server.addresses[0].port or 0
        generator = Generator(plan_for(port, loop="open", rate=100.0, duration=PATIENCE, **ECHO))
        nursery.start_soon(generator.run, at_once)
        counts = generator.recorder.counts
        while counts.answered < 5:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await server.drain()
        while not counts.not_sent:  # noqa: ASYNC110
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert counts.lost == 20
    assert counts.ready == 0
    assert counts.closes == {"1001 shutdown": 20}


async def test_where_nobody_listens_every_client_fails_with_a_code() -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        outcome = await load(port, clients=3, duration=0.0, retry=False)
    assert outcome.counts.failures == {"connection_refused": 3}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "1002 protocol_error"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http_404"),
        (b"", "connection_lost"),
    ],
)
async def test_what_is_no_websocket_server_fails_with_a_code(answer: bytes, code: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if answer:
            await stream.send_all(answer)
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        port = listener.socket.getsockname()[1]
        outcome = await load(port, clients=2, duration=0.0, retry=False)
        nursery.cancel_scope.cancel()
    assert outcome.counts.failures == {code: 2}


async def test_a_token_command_that_fails_ends_the_run_before_it_begins() -> None:
    with pytest.raises(ExceptionGroup) as failed:
        await load(1, tokens=Tokens(command=("false",)), clients=1)
    assert failed.group_contains(TokenError, match=r"exit code 1")


async def test_a_token_command_is_asked_for_each_client() -> None:
    token = make_token(SECRET, subject="alice")
    async with running() as server:
        port = server.addresses[0].port or 0
        command = ("printf", token + "%.0s", "{client}")
        outcome = await load(port, tokens=Tokens(command=command), clients=3, duration=0.0)
    assert outcome.counts.ready == 3


async def test_over_tls_with_a_certificate_that_is_trusted_and_with_one_that_is_not(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, root = (tmp_path / name for name in ("chain.pem", "key.pem", "root.pem"))
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    async with running(certificate=chain, key=key) as server:
        port = server.addresses[0].port or 0
        url = f"wss://127.0.0.1:{port}/ws/rooms/{{client}}"
        data = '{"text": "' + "x" * 40_000 + '"}'
        trusted = await load(port, url=url, cafile=str(root), loop="closed", type="echo",
                             data=data, clients=5)  # fmt: skip
        stranger = await load(port, url=url, clients=2, duration=0.0)
        careless = await load(port, url=url, insecure_tls=True, clients=2, duration=0.0)
    assert trusted.counts.wrong == 0
    assert trusted.counts.answered == trusted.counts.sent > 10
    assert stranger.counts.failures == {"certificate_invalid": 2}
    assert careless.counts.ready == 2


async def test_cancelled_it_leaves_no_connection_and_keeps_what_was_counted() -> None:
    begun = clock()
    async with running() as server:
        port = server.addresses[0].port or 0
        generator = Generator(plan_for(port, loop="closed", duration=60.0, **ECHO))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(generator.run, at_once)
                while generator.recorder.counts.answered < 100:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                scope.cancel()
        assert scope.cancelled_caught
        with trio.fail_after(PATIENCE):
            while server.statistics().ready:  # noqa: ASYNC110
                await trio.sleep(0.01)
    result = generator.recorder.result(clock())
    assert result.counts.answered >= 100
    assert 0 < result.measured < clock() - begun
