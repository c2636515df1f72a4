"""What the parts of one server share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from trioserver.app.application import Application
from trioserver.auth.blocks import Blocks
from trioserver.config import Config
from trioserver.logs.lines import LineLimiter
from trioserver.server.admission.controller import AdmissionController
from trioserver.server.admission.memory import new_memory
from trioserver.server.registry import Registry
from trioserver.storage import Database
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.observer import Observer, Observers
from trioserver.telemetry.tracing import Tracing
from trioserver.websocket.memory import MemoryLimiter
from trioserver.websocket.poller import SocketPoller, make_poller


@attrs.frozen(kw_only=True, eq=False)
class ServerContext:
    """What the parts of one server share.

    - ``observers``: all that is told what happens, with ``admission`` and ``metrics`` among them.
    - ``tracing``: None if no spans are made.
    - ``poller``: None if connections are served by tasks of their own.
    - ``wall_clock``: returns seconds since the Unix epoch.
    """

    application: Application
    registry: Registry
    blocks: Blocks
    admission: AdmissionController
    memory: MemoryLimiter
    lines: LineLimiter
    metrics: MetricsRegistry
    observers: Observers
    tracing: Tracing | None
    poller: SocketPoller | None
    wall_clock: Callable[[], float]


def new_context(
    application: Application,
    config: Config,
    *,
    database: Database | None,
    observers: Iterable[Observer],
    tracing: Tracing | None,
    wall_clock: Callable[[], float],
) -> ServerContext:
    """Make the parts that the other parts of a server share."""
    registry, metrics, all_observers = Registry(), MetricsRegistry(), Observers(())
    admission = AdmissionController(config, all_observers)
    for observer in (admission, metrics, *observers):
        all_observers.add(observer)
    return ServerContext(
        application=application,
        registry=registry,
        blocks=Blocks(
            database,
            refresh=config.audit.block_refresh_interval,
            enforce=registry.disconnect_blocked,
            wall_clock=wall_clock,
        ),
        admission=admission,
        memory=new_memory(config),
        lines=LineLimiter(config.log.lines_per_source, config.log.lines_per_second),
        metrics=metrics,
        observers=all_observers,
        tracing=tracing,
        poller=make_poller(),
        wall_clock=wall_clock,
    )
