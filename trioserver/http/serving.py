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
from trioserver.server.http_side import HttpSide
from trioserver.server.operations.gc_scheduler import run_gc_scheduler
from trioserver.server.server import Server
from trioserver.telemetry.observer import Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log: Final = structlog.get_logger("trioserver")

_HTTP_NEEDS: Final = "HTTP needs Starlette: pip install 'trioserver[http]'"


def make_http(server: Server) -> HttpSide | None:
    """Make the HTTP side of ``server``; None if the extra is not installed and not needed, or if
    every part of it is off. Raises `ImportError` if the extra is needed.
    """
    config, parts = server.config.http, server.application.parts
    wanted = any(part.http is not None for part in parts) or config.builtin_listen is not None
    try:
        with needs(_HTTP_NEEDS, "starlette"):
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
    """Serve an application in a program's own Trio, until it is drained or cancelled.

    ``server = await nursery.start(serve, app, config)``; then `Server.drain` and `Server.reload`
    are there. Cancelling this ends all connections at once. The process stays the program's: its
    signals and its garbage collector are left alone. For a process that is the server's own there
    is `run`.

    ``observers`` are told what happens. ``tracer`` makes OpenTelemetry spans; None makes them where
    the configuration says so, with the process's tracer provider. ``handle_signals``: SIGTERM and
    SIGINT drain, SIGUSR2 drains for a restart, a second one ends at once, SIGHUP reloads, and
    systemd is told; needs the main thread. ``clock`` gives seconds since the Unix epoch.
    ``load_config`` is called in a worker thread to reload the configuration; None keeps ``config``.

    Raises `ListenError`; `ValueError` where an authenticator refuses the addresses; `ImportError`
    where an application has ``http`` or tracing is on, and the extra is not installed.
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
    """Serve an application as a program: this process is the server's own, from here to its end.

    It calls `trio.run`, so it is called outside of Trio, in the main thread. SIGTERM and SIGINT
    drain, SIGUSR2 drains for a restart, a second one ends at once, SIGHUP reloads, and systemd is
    told. The garbage collector is tuned for many connections. Returns when the server is drained.

    ``on_start`` is called once, when connections are accepted. The rest is as of `serve`, which
    also says what is raised.
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
