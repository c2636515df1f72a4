"""One request, and the application that answers it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import structlog
import trio
from starlette.requests import ClientDisconnect

from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.websocket.handshake import RequestRejected

Event: TypeAlias = Any
"""A message of ASGI's."""

Application: TypeAlias = Callable[..., Awaitable[None]]

log: Final = structlog.get_logger("trioserver")

_QUEUE: Final = 4
"""Pieces of a body, of 64 KiB at most, that wait for the application."""


class ClientGone(OSError):
    """There is nobody left to send to. ASGI has `send` raise an `OSError` for it."""


class Exchange:
    """Runs the application; Hypercorn is on the other side.

    ``send`` is Hypercorn's. ``closes`` says whether the connection ends with this answer.
    ``started``: the answer has begun, so that no other can be given.
    """

    def __init__(
        self,
        application: Application,
        scope: dict[str, Any],
        send: Callable[[Event | None], Awaitable[None]],
        *,
        closes: Callable[[], bool],
    ) -> None:
        self.scope = scope
        self.started = False
        self.status = 0
        self._application = application
        self._send = send
        self._closes = closes
        self._cancel_scope = trio.CancelScope()
        self._input, self._output = trio.open_memory_channel[Event](_QUEUE)

    def limit(self, seconds: float) -> None:
        """From now on, so much time to begin the answer, or to end where it has begun already."""
        deadline = trio.current_time() + seconds
        self._cancel_scope.deadline = min(self._cancel_scope.deadline, deadline)

    async def put(self, event: Event) -> None:
        """Tell the application; waits while it has much to read. It need not read anything."""
        if event["type"] == "http.disconnect":
            self.disconnect()
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._input.send(event)

    def disconnect(self) -> None:
        """Have the application hear, behind what has come, that the client has gone."""
        self._input.close()  # also ends the wait of whoever is in `put`

    async def run(self) -> RequestRejected | None:
        """Run the application to its end; what to answer in its place, if it has failed."""
        failed = gone = False
        try:
            with self._cancel_scope:
                await self._application(self.scope, self._receive, self._tell)
        except* (ClientGone, ClientDisconnect):
            gone = True
        except* Exception as errors:
            failed = True
            if self._may_log("http_application_failed"):
                log.error(
                    "http_application_failed", path=self._shown_path, traceback=traceback_of(errors)
                )
        finally:
            self._output.close()
        if self._cancel_scope.cancelled_caught:
            if self._may_log("http_application_timeout"):
                log.error("http_application_timeout", path=self._shown_path)
            return RequestRejected(503, "The server did not answer in time. Try again later.")
        unanswered = not (failed or gone or self.started)
        if unanswered and self._may_log("http_application_failed"):
            log.error("http_application_failed", path=self._shown_path, reason="no answer")
        if failed or not self.started:
            return RequestRejected(500, "The server failed; the fault is not yours.")
        return None

    async def end(self) -> None:
        """Tell Hypercorn that the application has returned."""
        await self._send(None)

    def _may_log(self, event: str) -> bool:
        client = self.scope.get("client")
        return may_log(event, "" if client is None else client[0])

    @property
    def _shown_path(self) -> str:
        return masked_path(self.scope["path"])

    async def _receive(self) -> Event:
        try:
            return await self._output.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}

    async def _tell(self, message: Event) -> None:
        if message["type"] != "http.response.start":
            await self._send(message)
            return
        self._cancel_scope.deadline = math.inf
        if self._closes():
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            message = {**message, "headers": headers}
        self.started = True
        self.status = int(message["status"])
        try:
            await self._send(message)
        except ClientGone:
            raise
        except Exception:
            self.started = False  # it was no good: nothing has been sent
            raise
