"""One request and its response: the application runs, and what it sends goes to the client."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

import h11
import structlog
import trio
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from trioserver.http.request_body import RequestBody
from trioserver.http.response import ResponseEncoder
from trioserver.http.transport import PIECE_BYTES, ClientGone, Transport
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.tracebacks import traceback_of
from trioserver.websocket.handshake import RequestRejected

Application: TypeAlias = Callable[..., Awaitable[None]]

log: Final = structlog.get_logger("trioserver")

_QUEUE: Final = 4
"""Pieces of a request's body, of 64 KiB at most, that wait for the application."""

TOO_SLOW: Final = "The server did not answer in time. Try again later."


class RequestCycle:
    """Runs the application for one request, whose head ``parser`` has parsed.

    ``is_last`` returns whether the connection closes after this request. ``done`` is set when the
    request needs nothing more of its connection, although the application may go on:

    - The whole response was sent: ``is_answered``.
    - `fail` was called: the client is to get ``refusal``, or nothing if that is None.
    """

    def __init__(
        self,
        application: Application,
        scope: Scope,
        parser: h11.Connection,
        transport: Transport,
        *,
        is_last: Callable[[], bool],
    ) -> None:
        self.scope = scope
        self.body = RequestBody(parser)
        self.response = ResponseEncoder(parser, method=scope["method"])
        self.done = trio.Event()
        self.is_answered = False
        self.refusal: RequestRejected | None = None
        self._application = application
        self._transport = transport
        self._is_last = is_last
        self._cancel_scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._to_application, self._events = trio.open_memory_channel[Message](_QUEUE)

    def limit(self, seconds: float) -> None:
        """Give the application this much time to start the response, or to end if it has."""
        deadline = trio.current_time() + seconds
        self._cancel_scope.deadline = min(self._cancel_scope.deadline, deadline)

    # -------------------------------------------------------------------------- for the connection

    async def pass_body(self) -> None:
        """Hand what was received of the body to the application; wait while it has much to read."""
        data, more = self.body.read(), not self.body.is_complete
        if more and not data:
            return
        event = {"type": "http.request", "body": data, "more_body": more}
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it reads no more
            await self._to_application.send(event)

    async def send_continue(self) -> None:
        """Answer ``Expect: 100-continue``, if the request has it."""
        if data := self.response.encode_continue():
            with suppress(ClientGone):
                async with self._sending:
                    await self._write(data)

    def disconnect(self) -> None:
        """Let the application receive ``http.disconnect`` after the events that wait for it."""
        self._to_application.close()  # also ends a wait in `pass_body`

    def fail(self, refusal: RequestRejected | None) -> None:
        """End without a complete response: with ``refusal`` if none has started, else abruptly."""
        if not self.done.is_set():
            if not self.response.is_started:
                self.refusal = refusal
            self._finish()

    def _finish(self) -> None:
        self.done.set()
        self.disconnect()
        self._transport.interrupt()

    # -------------------------------------------------------------------------- the application

    async def run(self) -> None:
        """Run the application to its end; whatever it raises is logged."""
        began = trio.current_time()
        refusal = await self._run_application()
        status = self.response.status or (self.refusal or refusal).status
        log.debug(
            "http_request",
            method=self.scope["method"],
            path=self._shown_path,
            status=status,
            duration_ms=round((trio.current_time() - began) * 1000),
        )
        self.fail(refusal)  # changes nothing after a complete response

    async def _run_application(self) -> RequestRejected:
        """Return what to answer with if the application has not started a response."""
        failed = gone = False
        try:
            with self._cancel_scope:
                await self._application(self.scope, self._receive, self._send)
        except* (ClientGone, ClientDisconnect):
            gone = True
        except* Exception as errors:
            failed = True
            if self._may_log("http_application_failed", traceback=True):
                log.error(
                    "http_application_failed", path=self._shown_path, traceback=traceback_of(errors)
                )
        finally:
            self._events.close()
        if self._cancel_scope.cancelled_caught:
            if self._may_log("http_application_timeout"):
                log.error("http_application_timeout", path=self._shown_path)
            return RequestRejected(503, TOO_SLOW)
        unanswered = not (failed or gone or self.response.is_started)
        if unanswered and self._may_log("http_application_failed"):
            log.error("http_application_failed", path=self._shown_path, reason="no response")
        return RequestRejected(500, "The server failed. The client did nothing wrong.")

    async def _receive(self) -> Message:
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        async with self._sending:
            if self.done.is_set() and not self.is_answered:
                raise ClientGone
            was_started = self.response.is_started
            closes = self._is_last() or not self.body.is_complete
            data = self.response.encode(message, closes=closes)
            if not was_started:
                self._cancel_scope.deadline = math.inf
            await self._write(data)
            if self.response.is_complete and not self.done.is_set():
                self.is_answered = True
                self._finish()

    async def _write(self, data: bytes) -> None:
        """Write piece by piece, each by its deadline. Raises `ClientGone`."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), PIECE_BYTES):
                if self.done.is_set():
                    raise ClientGone
                await self._transport.send(view[start : start + PIECE_BYTES])
        except BaseException:
            # Nothing may follow what was sent in part, not even if the application cancelled it.
            self.fail(None)
            raise

    def _may_log(self, event: str, *, traceback: bool = False) -> bool:
        client = self.scope.get("client")
        return may_log(event, "" if client is None else client[0], traceback=traceback)

    @property
    def _shown_path(self) -> str:
        return masked_path(self.scope["path"])
