"""ASGI's lifespan: an application is told before the first request, and after the last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
import trio
from starlette.types import ASGIApp, Message

from trioserver.logs.tracebacks import traceback_of

log: Final = structlog.get_logger("trioserver")

_TIMEOUTS: Final = {"startup": 60.0, "shutdown": 10.0}
"""In seconds."""


class LifespanFailed(Exception):
    """A mounted application has said that it cannot start, or did not say anything in time."""


@asynccontextmanager
async def lifespan(application: ASGIApp, state: dict[str, Any]) -> AsyncIterator[None]:
    """Inside, it is running; what it puts into ``state`` is in the scope of each request.

    An application that knows nothing of lifespans is left alone. Raises `LifespanFailed`, and what
    it raises after it has begun to start. Cancelling this cancels the application.
    """
    conversation = _Conversation(application, state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conversation.run)
        await conversation.say("startup")
        yield
        await conversation.say("shutdown")
        nursery.cancel_scope.cancel()


class _Conversation:
    def __init__(self, application: ASGIApp, state: dict[str, Any]) -> None:
        self._application = application
        self._state = state
        self._to_application, self._events = trio.open_memory_channel[Message](2)
        self._answered = {"startup": trio.Event(), "shutdown": trio.Event()}
        self._has_heard = False
        self._failure: str | None = None

    async def run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except* Exception as errors:
            if self._has_heard:  # one that knows of no lifespan raises without listening
                self._crashed(errors)
        finally:
            for event in self._answered.values():
                event.set()

    async def say(self, what: str) -> None:
        """Tell it, and wait for its answer."""
        self._to_application.send_nowait({"type": f"lifespan.{what}"})
        with trio.move_on_after(_TIMEOUTS[what]):
            await self._answered[what].wait()
            if self._failure is not None:
                raise LifespanFailed(
                    f"a mounted ASGI application failed at {what}: {self._failure}"
                )
            return
        if what == "startup":
            raise LifespanFailed(
                f"a mounted ASGI application did not start in {_TIMEOUTS[what]:.0f} s"
            )
        log.error("http_lifespan_failed", reason="it did not shut down in time")

    def _crashed(self, errors: Exception) -> None:
        if not self._answered["startup"].is_set() and self._failure is None:
            self._failure = "it raised an exception, see the log"
        log.error("http_lifespan_failed", traceback=traceback_of(errors))

    async def _receive(self) -> Message:
        message = await self._events.receive()
        self._has_heard = True
        return message

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        what, _, how = message["type"].removeprefix("lifespan.").partition(".")
        if how == "failed":
            lines = str(message.get("message") or "it gave no reason").strip().splitlines()
            self._failure = lines[-1]  # Starlette's is a traceback
            if what == "shutdown":
                # The type of the exception, where it is one: its text may quote anything.
                reason = lines[0] if len(lines) == 1 else lines[-1].partition(":")[0]
                log.error("http_lifespan_failed", reason=reason)
                self._failure = None
        with suppress(KeyError):
            self._answered[what].set()
