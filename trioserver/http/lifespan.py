"""ASGI's lifespan: tell an application to start before the first request and to stop after all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
import trio
from starlette.types import ASGIApp, Message

from trioserver.logs.tracebacks import traceback_of

log: Final = structlog.get_logger("trioserver")

_TIMEOUTS: Final = {"startup": 60.0, "shutdown": 10.0}  # seconds


class LifespanError(Exception):
    """A mounted application reported that it cannot start, or did not start in time."""


@asynccontextmanager
async def lifespan(application: ASGIApp, state: dict[str, Any]) -> AsyncIterator[None]:
    """Run the lifespan of ``application`` around the block.

    What the application puts into ``state`` is in the scope of each request. An application that
    does not support lifespans runs without. Raises `LifespanError`. Cancelling this cancels the
    application.
    """
    task = LifespanTask(application, state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.run)
        await task.notify("startup")
        yield
        await task.notify("shutdown")
        nursery.cancel_scope.cancel()


class LifespanTask:
    """The task in which an application handles the lifespan messages."""

    def __init__(self, application: ASGIApp, state: dict[str, Any]) -> None:
        self._application = application
        self._state = state
        self._to_application, self._events = trio.open_memory_channel[Message](2)
        self._confirmed = {"startup": trio.Event(), "shutdown": trio.Event()}
        self._has_received = False
        self._failure: str | None = None

    async def run(self) -> None:
        """Call the application with a lifespan scope."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except* Exception as errors:
            if self._has_received:  # without support of lifespans, it raises before it receives
                self._crashed(errors)
        finally:
            for event in self._confirmed.values():
                event.set()

    async def notify(self, what: str) -> None:
        """Send "startup" or "shutdown", and wait until the application confirms it."""
        self._to_application.send_nowait({"type": f"lifespan.{what}"})
        with trio.move_on_after(_TIMEOUTS[what]):
            await self._confirmed[what].wait()
            if self._failure is not None:
                raise LifespanError(f"a mounted ASGI application failed at {what}: {self._failure}")
            return
        if what == "startup":
            raise LifespanError(
                f"a mounted ASGI application did not start in {_TIMEOUTS[what]:.0f} s"
            )
        log.error("http_lifespan_failed", reason="the application did not shut down in time")

    def _crashed(self, errors: Exception) -> None:
        if not self._confirmed["startup"].is_set() and self._failure is None:
            self._failure = "it raised an exception, which is in the log"
        log.error("http_lifespan_failed", traceback=traceback_of(errors))

    async def _receive(self) -> Message:
        message = await self._events.receive()
        self._has_received = True
        return message

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        what, _, how = message["type"].removeprefix("lifespan.").partition(".")
        if how == "failed":
            lines = str(message.get("message") or "it gave no reason").strip().splitlines()
            self._failure = lines[-1]  # Starlette sends a traceback
            if what == "shutdown":
                # Of an exception, only its type: its text may quote secrets.
                reason = lines[0] if len(lines) == 1 else lines[-1].partition(":")[0]
                log.error("http_lifespan_failed", reason=reason)
                self._failure = None
        with suppress(KeyError):
            self._confirmed[what].set()
