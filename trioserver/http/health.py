"""``/healthz``: the process is alive. ``/readyz``: it can take traffic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trioserver.app.application import Application, HealthCheck
from trioserver.auth.component import overrides
from trioserver.http.host_server import HostServer
from trioserver.http.pages import as_json
from trioserver.logs.tracebacks import name_of

log: Final = structlog.get_logger("trioserver")

_FRESH: Final = 1.0
"""Seconds for which a result is reused, so that a flood of probes does not reach the database."""


def health_routes(server: HostServer) -> list[Route]:
    """Return the two routes."""
    readiness = Readiness(server)

    async def healthz(request: Request) -> Response:
        return as_json({"status": "ok"})

    async def readyz(request: Request) -> Response:
        failed = await readiness.failed()
        if failed:
            return as_json({"status": "unavailable", "failed": failed}, 503, {"Retry-After": "5"})
        return as_json({"status": "ready"})

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


class Readiness:
    """Runs all checks concurrently, and reuses the result for a second."""

    def __init__(self, server: HostServer) -> None:
        self._server = server
        self._timeout = server.config.http.check_timeout
        self._checks = collect(server.application, server.health_checks())
        self._asking = trio.Lock()
        self._asked_at = float("-inf")
        self._failed: list[str] = []

    async def failed(self) -> list[str]:
        """Return the names of the checks that fail; an empty list if the server can take traffic.

        Takes at most the timeout of the checks, or twice that if they are already running.
        """
        statistics = self._server.statistics()
        if statistics.draining:
            return ["draining"]
        if statistics.ready >= self._server.config.limits.max_connections:
            return ["full"]
        async with self._asking:
            if trio.current_time() - self._asked_at > _FRESH:
                self._failed = await self._ask()
                self._asked_at = trio.current_time()
        return self._failed

    async def _ask(self) -> list[str]:
        failed: dict[str, str] = dict.fromkeys(self._checks, "timed out")

        async def ask(name: str, check: HealthCheck) -> None:
            try:
                good = await check()
            except Exception as error:
                failed[name] = name_of(error)
            else:
                if good is False:
                    failed[name] = "returned False"
                else:
                    del failed[name]

        with trio.move_on_after(self._timeout):
            async with trio.open_nursery() as nursery:
                for name, check in self._checks.items():
                    nursery.start_soon(ask, name, check)
        if failed and sorted(failed) != self._failed:
            log.warning("not_ready", failed=failed)
        elif not failed and self._failed:
            log.info("ready_again")
        return sorted(failed)


def collect(
    application: Application, own: Mapping[str, HealthCheck] | None = None
) -> Mapping[str, HealthCheck]:
    """Return all checks by name: the server's ``own``, the application's, and the components'."""
    checks: dict[str, HealthCheck] = dict(own or {})
    seen: set[int] = set()

    def add(name: str, check: HealthCheck) -> None:
        number, unique = 1, name
        while unique in checks:
            number += 1
            unique = f"{name}-{number}"
        checks[unique] = check

    for part in application.parts:
        for name, check in part.health_checks.items():
            add(name, check)
    for name, thing in application.components():
        if overrides(thing, "check_health") and id(thing) not in seen:
            seen.add(id(thing))
            add(name, thing.check_health)
    return checks
