"""The metrics as an ASGI application, for `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.util import find_spec
from typing import Any

from trioserver.telemetry.metrics import render_in_steps
from trioserver.telemetry.metrics.source import Measured


class MetricsEndpoint:
    """Answers each request with the metrics of ``server``, whatever its path. Reads no body."""

    def __init__(self, server: Measured) -> None:
        self._server = server

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """An HTTP request by the rules of ASGI."""
        body, content_type = await render_in_steps(self._server)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def metrics_endpoint(server: Measured) -> MetricsEndpoint | None:
    """The endpoint; None where prometheus-client, the extra ``metrics``, is not installed."""
    return None if find_spec("prometheus_client") is None else MetricsEndpoint(server)
