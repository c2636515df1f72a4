"""Metrics for Prometheus, with prometheus-client: the extra ``metrics``.

The server counts in plain numbers (`MetricsRegistry`). They are put into Prometheus' text format
when somebody asks for it.
"""

from __future__ import annotations

from typing import Final

from trioserver.config.extras import needs
from trioserver.telemetry.metrics.connection_totals import ConnectionTotals
from trioserver.telemetry.metrics.source import MetricsSource

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""


def render_metrics(server: MetricsSource) -> tuple[bytes, str]:
    """Return the metrics of a server as text, and the text's content type.

    Takes about a millisecond per thousand connections, in which nothing else runs; if that is too
    long, use `render_in_steps`. Raises `ImportError` if prometheus-client is not installed.
    """
    return _text(server, server.connection_totals_nowait()), CONTENT_TYPE


async def render_in_steps(server: MetricsSource) -> tuple[bytes, str]:
    """Render the metrics as `render_metrics` does, in steps between which other tasks run."""
    return _text(server, await server.connection_totals()), CONTENT_TYPE


def _text(server: MetricsSource, totals: ConnectionTotals) -> bytes:
    with needs(
        "metrics need prometheus-client: pip install 'trioserver[metrics]'", "prometheus_client"
    ):
        from prometheus_client import generate_latest

        from trioserver.telemetry.metrics.families import Families
    return generate_latest(Families(server.metrics, server.statistics(), totals))
