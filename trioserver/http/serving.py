"""Serve an application: a server and its HTTP side, put together.

`serve` is for a program's own Trio, `run` for a process that is the server's own. The modules that
need the extra ``http`` are imported when a server starts, and only if they are installed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trioserver.app.application import Application
from trioserver.app.functions import unwrap
from trioserver.config import Config
from trioserver.config.extras import MissingExtraError, needs
from trioserver.http import NEEDS
from trioserver.server.http_side import HttpSide
from trioserver.server.operations.gc_scheduler import run_gc_scheduler
from trioserver.server.server import Server
from trioserver.telemetry.observer import Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log: Final = structlog.get_logger("trioserver")


def make_http(server: Server) -> HttpSide | None:
    """Make the HTTP side of ``server``; None if the extra is not installed and not needed, or if
    every part of it is off. Raises `ImportError` if the extra is needed.
    """
    config, parts = server.config.http, server.application.parts
    wanted = any(part.http is not None for part in parts) or config.builtin_listen is not None
    try:
        with needs(NEEDS, "starlette"):
            from trioserver.http.admin import admin_app
            from trioserver.http.service import HttpService
            from trioserver.telemetry.metrics.endpoint import metrics_endpoint
    except MissingExtraError:
        if wanted:
            raise
        log.info("http_disabled", hint="for /healthz and more: pip install 'trioserver[http]'")
        return None
    wanted = wanted or config.metrics is not False or config.admin is not False
    if not (wanted or config.health or config.protocol):
        return None
    return HttpService(server, metrics=metrics_endpoint(server), admin=admin_app(server))


async def serve(
    application: Application,
    config: Config | None = None,
    *,
    observers: Iterable[Observer] = (),
    tracer: Tracer | None = None,
    clock: Callable[[], float] = time.time,
    handle_signals: bool = False,
    load_config: Callable[[], Config] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application inside a running Trio program, until it is drained or cancelled.

    Start it with ``server = await nursery.start(serve, app, config)``. Then use the `Server`, for
    example `Server.drain` and `Server.reload`. Cancelling this ends all connections at once. It
    does not change signal handlers or the garbage collector of the process. For a process that
    only serves the application, use `run`.

    - ``observers``: called when something happens in the server, see `Observer`.
    - ``tracer``: makes OpenTelemetry spans. If None, the option ``tracing.spans`` decides, and the
      tracer provider of the process is used.
    - ``clock``: returns seconds since the Unix epoch.
    - ``handle_signals``: SIGTERM and SIGINT drain, SIGUSR2 drains for a restart, a second one of
      these ends the server at once, and SIGHUP reloads. systemd is notified. Needs the main thread.
    - ``load_config``: called in a worker thread to reload the configuration; None keeps ``config``.

    Raises `ListenError`; `ValueError` if an authenticator does not allow the addresses;
    `ImportError` if the extra for an application's ``http`` or for tracing is not installed.
    """
    server = Server(
        application,
        config or Config(),
        observers=observers,
        tracer=tracer,
        clock=clock,
        load_config=load_config,
        make_http=make_http,
    )
    try:
        await server.run(handle_signals=handle_signals, task_status=task_status)
    except ExceptionGroup as group:
        raise unwrap(group) from None


def run(
    application: Application,
    config: Config | None = None,
    *,
    observers: Iterable[Observer] = (),
    tracer: Tracer | None = None,
    clock: Callable[[], float] = time.time,
    load_config: Callable[[], Config] | None = None,
    on_start: Callable[[Server], object] | None = None,
) -> None:
    """Serve an application in a process that does nothing else. Return when it has drained.

    Call this outside of Trio, in the main thread: it calls `trio.run`. Signals are handled as
    `serve` does with ``handle_signals``, and the garbage collector is tuned for many connections.

    ``on_start`` is called with the `Server` when it accepts connections. For the other parameters
    and for exceptions, see `serve`.
    """
    start = partial(
        serve,
        application,
        config,
        observers=observers,
        tracer=tracer,
        clock=clock,
        handle_signals=True,
        load_config=load_config,
    )
    try:
        trio.run(_run_program, start, on_start)
    except ExceptionGroup as group:
        raise unwrap(group) from None


async def _run_program(
    start: Callable[..., Awaitable[None]], on_start: Callable[[Server], object] | None
) -> None:
    async with trio.open_nursery() as program:
        async with trio.open_nursery() as serving:
            server = await serving.start(start)
            program.start_soon(run_gc_scheduler)  # what there is now is there for good
            if on_start is not None:
                on_start(server)
        program.cancel_scope.cancel()
