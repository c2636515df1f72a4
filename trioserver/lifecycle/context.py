"""What all connections of a server share."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from protocol import ProtocolOptions
from trioserver.app.route import Route
from trioserver.auth.blocks import Blocks
from trioserver.config import Config
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.observer import Observer
from trioserver.telemetry.tracing import Tracing
from trioserver.websocket.memory import MemoryLimiter
from trioserver.websocket.poller import SocketPoller


@attrs.frozen(kw_only=True, eq=False)
class ConnectionContext:
    """What connections share that began under the same configuration.

    ``tracing`` is None if no spans are made. ``wall_clock`` returns seconds since the Unix epoch.
    ``options`` are those of each route's protocol, made with the first connection to it.
    """

    config: Config
    blocks: Blocks
    metrics: MetricsRegistry
    observer: Observer
    tracing: Tracing | None
    wall_clock: Callable[[], float]
    poller: SocketPoller | None
    memory: MemoryLimiter
    options: dict[Route, ProtocolOptions] = attrs.field(factory=dict, init=False)
