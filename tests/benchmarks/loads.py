"""The loads. Each makes its connections, runs for a while, and gives figures by name.

``rate`` is messages a second, ``p50_ms`` and the like are of the time from when a request was due
until its answer was read. ``server_cpu`` and ``generator_cpu`` are shares of one core.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import psutil  # type: ignore[import-untyped]

from tests.benchmarks.clients import Client, Clients
from tests.benchmarks.settings import TOPIC, Job
from tests.benchmarks.wire import FIRST_ID, Refused, Requests, message

Figures: TypeAlias = dict[str, float]

EVENTS_IN_FLIGHT: Final = 4
"""Events that are published before the first has reached everybody: the server has always work."""

FLOOD_BATCH: Final = 64
"""Requests of the flooding client in one go; between two of them the quiet ones have their turn."""

_SETTLING: Final = 2.0
"""Seconds after which idle connections are idle."""

_GRACE: Final = 5.0
"""Seconds for the last answers of an open loop; what has none by then is counted as lost."""

_EARLIER: Final = 50
"""Connections before the ones whose memory is counted: what the first ones cost is the server's."""


class Meter:
    """CPU time of both processes, from its making on."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._began = time.perf_counter()
        self._generator_began = time.process_time()
        self._server_began = self._server_seconds()

    def _server_seconds(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)

    def read(self) -> Figures:
        seconds = time.perf_counter() - self._began
        return {
            "seconds": seconds,
            "server_cpu": (self._server_seconds() - self._server_began) / seconds,
            "generator_cpu": (time.process_time() - self._generator_began) / seconds,
        }


def percentiles(latencies: list[float]) -> Figures:
    """In milliseconds. Empty where there was none."""
    if not latencies:
        return {}
    latencies.sort()
    last = len(latencies) - 1
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    return {name: 1000 * latencies[round(last * share)] for name, share in shares.items()}


def closed_loop(job: Job) -> Figures:
    """Each connection has ``in_flight`` requests without an answer, always."""
    requests = Requests(job.message_bytes)
    latencies: list[float] = []
    with Clients(job) as clients:
        clients.open(job.connections)
        for client in clients.all:
            _ask(clients, client, requests, job.in_flight, time.perf_counter())
        _keep_asking(clients, requests, job.warmup, latencies)
        latencies.clear()
        meter = Meter(psutil.Process(job.server))
        messages = _keep_asking(clients, requests, job.duration, latencies)
        figures = meter.read()
    rate = messages / figures["seconds"]
    return figures | percentiles(latencies) | {"rate": rate}


def _ask(clients: Clients, client: Client, requests: Requests, count: int, due: float) -> None:
    client.times.extend([due] * count)
    start = client.sent
    client.sent += count
    clients.send(client, requests.take(start, count))


def _keep_asking(
    clients: Clients, requests: Requests, duration: float, latencies: list[float]
) -> int:
    """A new request for each answer. Returns how many answers there were."""
    total = 0
    now = time.perf_counter()
    deadline = now + duration
    while now < deadline:
        for client, data in clients.receive(1.0):
            count = client.reader.feed(data)
            if count:
                now = time.perf_counter()
                _take_answers(client, count, requests, now, latencies)
                _ask(clients, client, requests, count, now)
                total += count
        now = time.perf_counter()
    return total


def _take_answers(
    client: Client, count: int, requests: Requests, now: float, latencies: list[float]
) -> None:
    """Answers come in the order of requests: the id of the last says that they do."""
    times = client.times
    for _ in range(count):
        latencies.append(now - times.popleft())
    expected = FIRST_ID + (client.sent - len(times) - 1) % requests.numbers
    if client.reader.last_id() != expected:
        raise Refused(f"{client.reader.text()[-300:]!r} where {expected} was expected")


def open_loop(job: Job) -> Figures:
    """Requests are sent when they are due, whatever has been answered."""
    requests = Requests(job.message_bytes)
    with Clients(job) as clients:
        clients.open(job.connections)
        _send_when_due(clients, clients.all, requests, job.rate, job.warmup)
        return _measure_open_loop(clients, clients.all, requests, job)


def flood(job: Job) -> Figures:
    """The same with ``connections`` quiet ones, beside one that sends as much as is taken."""
    requests = Requests(job.message_bytes)
    with Clients(job) as clients:
        clients.open(job.connections + 1)
        *quiet, flooder = clients.all
        answers = 0

        def send_more() -> None:
            if not flooder.unsent:
                clients.send(flooder, requests.take(flooder.sent, FLOOD_BATCH))
                flooder.sent += FLOOD_BATCH

        def count(client: Client, messages: int) -> None:
            nonlocal answers
            answers += messages

        _send_when_due(clients, quiet, requests, job.rate, job.warmup, send_more, count)
        answers = 0
        figures = _measure_open_loop(clients, quiet, requests, job, send_more, count)
    return figures | {"flood_rate": answers / figures["seconds"]}


def _measure_open_loop(
    clients: Clients,
    quiet: Sequence[Client],
    requests: Requests,
    job: Job,
    meanwhile: Callable[[], None] | None = None,
    others: Callable[[Client, int], None] | None = None,
) -> Figures:
    meter = Meter(psutil.Process(job.server))
    latencies, lateness, lost = _send_when_due(
        clients, quiet, requests, job.rate, job.duration, meanwhile, others
    )
    late_ms = percentiles(lateness).get("p99_ms", 0.0)
    rate = len(latencies) / job.duration
    figures = meter.read() | percentiles(latencies)
    return figures | {"rate": rate, "lost": lost, "late_ms": late_ms}


def _send_when_due(
    clients: Clients,
    quiet: Sequence[Client],
    requests: Requests,
    rate: float,
    duration: float,
    meanwhile: Callable[[], None] | None = None,
    others: Callable[[Client, int], None] | None = None,
) -> tuple[list[float], list[float], int]:
    """Latencies, how late each request was sent, and how many had no answer.

    ``meanwhile`` is called in each turn; answers to clients not in ``quiet`` go to ``others``.
    """
    due = _schedule(rate, duration)
    latencies: list[float] = []
    lateness: list[float] = []
    members = set(quiet)
    sent = answered = 0
    deadline = due[-1] + _GRACE
    while answered < len(due) and (now := time.perf_counter()) < deadline:
        while sent < len(due) and due[sent] <= now:
            lateness.append(now - due[sent])
            _ask(clients, quiet[sent % len(quiet)], requests, 1, due[sent])
            sent += 1
        if meanwhile is not None:
            meanwhile()
        for client, data in clients.receive(0):  # epoll's own timeout is too coarse
            count = client.reader.feed(data)
            if client not in members:
                if others is not None:
                    others(client, count)
            elif count:
                _take_answers(client, count, requests, time.perf_counter(), latencies)
                answered += count
    return latencies, lateness, len(due) - answered


def _schedule(rate: float, duration: float) -> list[float]:
    """Instants from now on: a Poisson process, the same each time."""
    chance = random.Random(1)
    due = []
    at = time.perf_counter() + 0.01
    for _ in range(max(1, round(rate * duration))):
        at += chance.expovariate(rate)
        due.append(at)
    return due


def fan_out(job: Job) -> Figures:
    """One more client publishes events, ``connections`` hear them."""
    data = {"text": "x" * job.message_bytes}
    events = [
        message(type="publish", id=id, topic=TOPIC, data=data)
        for id in range(2 * EVENTS_IN_FLIGHT)  # an id is free again when it has been answered
    ]
    with Clients(job) as clients:
        clients.open(job.connections + 1)
        *subscribers, publisher = clients.all
        for client in subscribers:
            clients.subscribe(client)
        state = _Deliveries(clients, publisher, len(subscribers), events)
        state.run(job.warmup)
        meter = Meter(psutil.Process(job.server))
        deliveries = state.run(job.duration)
        figures = meter.read()
    return figures | {"rate": deliveries / figures["seconds"]}


class _Deliveries:
    """Publishes the next event when an earlier one has reached everybody."""

    def __init__(
        self, clients: Clients, publisher: Client, subscribers: int, events: list[bytes]
    ) -> None:
        self._clients = clients
        self._publisher = publisher
        self._subscribers = subscribers
        self._events = events
        self._published = 0
        self._delivered = 0

    def run(self, duration: float) -> int:
        """Returns how many events were delivered, each subscriber's counted."""
        before = self._delivered
        deadline = time.perf_counter() + duration
        while time.perf_counter() < deadline:
            while self._published - self._delivered // self._subscribers < EVENTS_IN_FLIGHT:
                event = self._events[self._published % len(self._events)]
                self._clients.send(self._publisher, event)
                self._published += 1
            for client, data in self._clients.receive(1.0):
                count = client.reader.feed(data)
                if client is not self._publisher:
                    self._delivered += count
                elif b'"error"' in client.reader.text():
                    raise Refused(f"to publish: {client.reader.text()!r}")
        return self._delivered - before


def storm(job: Job) -> Figures:
    """All connect at one moment: TCP, upgrade, token, authorization, `ready`."""
    with Clients(job) as earlier:  # the server has seen clients before
        earlier.open(min(100, job.connections))
    time.sleep(0.5)
    with Clients(job) as clients:
        meter = Meter(psutil.Process(job.server))
        took = clients.open(job.connections, at_once=job.connections)
        figures = meter.read()
    return figures | percentiles(took) | {"rate": len(took) / figures["seconds"]}


def idle(job: Job) -> Figures:
    """What ``connections`` that are ready and silent weigh."""
    server = psutil.Process(job.server)
    with Clients(job) as clients:
        clients.open(_EARLIER)
        _listen(clients, _SETTLING)
        before = server.memory_info().rss
        clients.open(job.connections)
        _listen(clients, _SETTLING)
        after = server.memory_info().rss
    return {"kib": (after - before) / job.connections / 1024, "base_mib": before / 1024**2}


def _listen(clients: Clients, duration: float) -> None:
    """Nothing but answer pings."""
    deadline = time.perf_counter() + duration
    while time.perf_counter() < deadline:
        for client, data in clients.receive(0.1):
            client.reader.feed(data)
