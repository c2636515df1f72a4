"""Metrics for Prometheus, by prometheus-client: the extra ``metrics``.

Nothing is kept here. The server counts in plain numbers as it goes, and what is asked for is put
into Prometheus' text when somebody asks.
"""

from __future__ import annotations

from typing import Final

from trioserver.config.extras import needs
from trioserver.telemetry.metrics.source import Measured, Measurements

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""


def render_metrics(server: Measured) -> tuple[bytes, str]:
    """The metrics of a server as text, and the text's content type.

    Looks at all connections in one go: about a millisecond for each thousand of them, in which
    nothing else runs. Where that matters, there is `render_in_steps`. Raises `ImportError` where
    prometheus-client is not installed.
    """
    return _text(server.measurements()), CONTENT_TYPE


async def render_in_steps(server: Measured) -> tuple[bytes, str]:
    """The same, giving others their turn every few hundred connections. For `/metrics`.

    Cancelling this changes nothing.
    """
    return _text(await server.measure()), CONTENT_TYPE


def _text(measurements: Measurements) -> bytes:
    with needs("metrics need prometheus-client: install trioserver[metrics]", "prometheus_client"):
        from prometheus_client import generate_latest

        from trioserver.telemetry.metrics.families import Families
    return generate_latest(Families(measurements))
