"""The ASGI application of `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from typing import Any

from trioserver.telemetry.metrics import render_in_steps
from trioserver.telemetry.metrics.source import MetricsSource


class MetricsEndpoint:
    """Responds to each request with the metrics of ``server``, on any path."""

    def __init__(self, server: MetricsSource) -> None:
        self._server = server

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Handle an HTTP request of ASGI."""
        body, content_type = await render_in_steps(self._server)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def metrics_endpoint(server: MetricsSource) -> MetricsEndpoint | None:
    """Return the endpoint, or None if the extra ``metrics`` is not installed."""
    return None if find_spec("prometheus_client") is None else MetricsEndpoint(server)
