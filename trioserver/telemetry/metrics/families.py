"""The metrics: names, types, labels and help texts. docs/telemetry.md lists them as well.

No label has a value that a client can choose: they are phases, error codes of the protocol's table,
HTTP statuses, and the application's own routes and message types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trioserver.telemetry.handling_times import Outcome
from trioserver.telemetry.histogram import Histogram
from trioserver.telemetry.metrics.connection_totals import ConnectionTotals
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.metrics.statistics import ServerStatistics
from trioserver.telemetry.phases import Phase


class Families(Collector):
    """The metrics of a server, as a collector of prometheus-client."""

    def __init__(
        self, registry: MetricsRegistry, statistics: ServerStatistics, totals: ConnectionTotals
    ) -> None:
        self._registry = registry
        self._statistics = statistics
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._connections()
        yield from self._refusals()
        yield from self._traffic()
        yield from self._handlers()
        yield from self._send_queues()
        yield from self._memory()
        yield from self._drain()
        yield from self._audit()

    def _connections(self) -> Iterator[Metric]:
        registry, statistics, totals = self._registry, self._statistics, self._totals
        later = sum(totals.phases.values()) + statistics.http  # the others sent no request yet
        phases = {**totals.phases, "http": statistics.http}
        phases[Phase.HANDSHAKE] += max(0, statistics.open - later)
        yield _gauges("connections", "Open connections, by the phase they are in.", "phase", phases)
        yield _counter("connections_accepted", "Streams that were accepted.", statistics.accepted)
        yield _counter("connections_ready", "Connections that became ready.", registry.ready)
        yield _counters(
            "connections_closed",
            "Connections that have ended, by error code, or client_disconnected.",
            "reason",
            registry.closed,
        )
        lengths = HistogramMetricFamily(
            "trioserver_connection_phase_duration_seconds",
            "How long connections were in each phase; known when they end.",
            labels=["phase"],
        )
        for name, histogram in registry.phases.items():
            _add(lengths, [name], histogram)
        yield lengths

    def _refusals(self) -> Iterator[Metric]:
        registry, statistics = self._registry, self._statistics
        yield _counters(
            "rejected",
            "Clients that were rejected, by error code, http_STATUS, or another documented reason.",
            "reason",
            registry.rejected,
        )
        yield _counters(
            "token_refreshes",
            "New tokens on open connections, by outcome.",
            "outcome",
            registry.refreshes,
        )
        yield _counter(
            "evictions",
            "Connections that were evicted for new ones: unauthenticated ones, and HTTP.",
            statistics.evicted,
        )
        yield _counter("address_bans", "Bans of addresses.", statistics.address_bans)
        yield _gauge(
            "banned_addresses", "Addresses that are banned now.", statistics.banned_addresses
        )
        yield _gauge(
            "access_blocks",
            "Blocks in force, of users, tokens and resources.",
            statistics.access_blocks,
        )

    def _audit(self) -> Iterator[Metric]:
        audit = self._statistics.audit
        if audit is not None:
            yield _gauge("audit_queued_rows", "Rows that wait to be written.", audit.queued)
            yield _counter("audit_written_rows", "Rows that were written.", audit.written)
            yield _counter("audit_lost_rows", "Rows that are lost.", audit.lost)
            yield _gauge("audit_failing", "1 while writing fails.", int(audit.failing))

    def _traffic(self) -> Iterator[Metric]:
        statistics, totals = self._statistics, self._totals
        yield _counter("messages_received", "Messages from clients.", totals.messages_received)
        yield _counter("messages_sent", "Messages to clients.", totals.messages_sent)
        yield _counter("bytes_received", "WebSocket bytes from clients.", totals.bytes_received)
        yield _counter("bytes_sent", "WebSocket bytes to clients.", totals.bytes_sent)
        yield _gauge("requests_in_flight", "Requests without an answer yet.", totals.in_flight)
        yield _gauge("subscriptions", "Subscriptions of all connections.", totals.subscriptions)
        yield _gauge("topics", "Topics that have subscribers.", statistics.topics)
        round_trips = HistogramMetricFamily(
            "trioserver_heartbeat_round_trip_seconds", "From a ping to its pong."
        )
        _add(round_trips, [], self._registry.round_trips)
        yield round_trips

    def _handlers(self) -> Iterator[Metric]:
        labels = ["route", "type"]
        durations = HistogramMetricFamily(
            "trioserver_handler_duration_seconds",
            "From the start of a handler to its answer; for a stream, to its end.",
            labels=[*labels, "outcome"],
        )
        slow = CounterMetricFamily(
            "trioserver_slow_sync_handlers",
            "Calls of a def handler that took longer than handlers.sync_handler_warn_after.",
            labels=labels,
        )
        for path, type, times in self._registry.handling:
            for outcome in Outcome:
                if times.outcomes[outcome].count:
                    _add(durations, [path, type, outcome.name.lower()], times.outcomes[outcome])
            if times.slow:
                slow.add_metric([path, type], times.slow)
        yield durations
        yield slow

    def _send_queues(self) -> Iterator[Metric]:
        totals = self._totals
        yield _gauge("send_queue_connections", "Connections with anything queued.", totals.queueing)
        yield _gauge("send_queue_bytes", "Bytes in all send queues.", totals.queued_bytes)
        yield _gauge(
            "send_queue_max_bytes", "Bytes in the fullest send queue.", totals.queued_bytes_max
        )
        yield _gauge(
            "send_queue_oldest_seconds", "How long the oldest message has waited.", totals.oldest
        )

    def _memory(self) -> Iterator[Metric]:
        statistics = self._statistics
        yield _gauge(
            "memory_bytes",
            "Bytes in the queues of all connections, limited by limits.max_memory_bytes.",
            statistics.memory_bytes,
        )
        yield _gauge(
            "memory_waiting_connections",
            "Connections that are not read because memory_bytes is near its limit.",
            statistics.memory_waiting,
        )
        yield _counter(
            "memory_closed_connections",
            "Connections that were closed because memory_bytes exceeded its limit.",
            statistics.memory_closed,
        )

    def _drain(self) -> Iterator[Metric]:
        statistics, initial = self._statistics, self._registry.drain_initial
        left = statistics.ready if statistics.draining else 0
        yield _gauge("draining", "1 while the server drains.", int(statistics.draining))
        yield _gauge(
            "drain_initial_connections", "Connections that were ready when draining began.", initial
        )
        yield _gauge(
            "drain_remaining_connections",
            "Connections that are still to be closed by draining.",
            left,
        )


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"trioserver_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"trioserver_{name}", help, value=value)


def _gauges(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"trioserver_{name}", help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counters(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"trioserver_{name}", help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    """Add a histogram in Prometheus' form: each bucket counts all values below its bound."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    below = list(accumulate(histogram.buckets))
    family.add_metric(labels, list(zip(bounds, below, strict=True)), histogram.seconds)
