"""One HTTP connection: requests, one after the other, until it ends or becomes a WebSocket.

h11 parses requests and encodes responses. The head of each request passes the same checks as the
first one, every wait has a deadline, and nothing is sent in a shielded cancel scope.
"""

from __future__ import annotations

import math
from typing import Final

import attrs
import h11
import trio
from starlette.types import Scope

from trioserver.config import Config
from trioserver.http.cycle import Application, RequestCycle
from trioserver.http.transport import PIECE_BYTES, Transport
from trioserver.http.uploads import receive_body, too_large
from trioserver.server.admitted import AdmittedStream
from trioserver.websocket.handshake import ClientDisconnected, Head, RequestRejected, read_head
from trioserver.websocket.strictness import check_head, without_offers

_MAX_REQUESTS: Final = 1000
"""Requests of one connection. A client that sends more has to connect again, so that a load
balancer can choose another server for it."""


@attrs.define(kw_only=True)
class SharedContext:
    """What the HTTP connections of one server share."""

    config: Config
    is_draining: bool = False


class HttpConnection:
    """Serves one stream. ``scope`` is what the ASGI scopes of all its requests have in common."""

    def __init__(
        self,
        admitted: AdmittedStream,
        application: Application,
        shared: SharedContext,
        *,
        scope: Scope,
    ) -> None:
        self._admitted = admitted
        self._application = application
        self._shared = shared
        self._scope = scope
        http = shared.config.http
        self._transport = Transport(admitted.stream, send_timeout=http.send_timeout)
        self._cancel_scope = trio.CancelScope()
        self._cycles: set[RequestCycle] = set()  # also those that go on after their response
        self._requests = 0
        self._is_idle = False

    async def serve(self, head: Head) -> Head | None:
        """Serve this request, whose head has been checked, and those that follow.

        Return the head of an opening handshake if one of those is that; the stream is open then.
        """
        upgrade: Head | None = None
        with self._cancel_scope:
            async with trio.open_nursery() as nursery:
                upgrade = await self._serve_all(head, nursery)
                self._limit_cycles()
        return None if self._cancel_scope.cancelled_caught else upgrade

    def abort(self) -> None:
        """End at once."""
        self._cancel_scope.cancel()

    def drain(self) -> None:
        """End after the current response, if there is one."""
        if self._is_idle:
            self._transport.interrupt()

    async def _serve_all(self, head: Head, nursery: trio.Nursery) -> Head | None:
        following: Head | None = head
        while following is not None and not following.is_upgrade:
            following = await self._serve_one(following, nursery)
        return following

    async def _serve_one(self, head: Head, nursery: trio.Nursery) -> Head | None:
        """Serve one request; return the head of the next, or None if the connection has ended."""
        config = self._shared.config.http
        if int(head.header("content-length") or 0) > config.max_body_bytes:
            await self._admitted.refuse(too_large(config.max_body_bytes), head)
            return None
        cycle = self._new_cycle(head)
        self._cycles.add(cycle)
        nursery.start_soon(self._run, cycle)
        rest = await self._receive_request(cycle, head.trailing_data)
        await cycle.done.wait()
        if cycle.refusal is not None:
            await self._admitted.refuse(cycle.refusal, head)
        elif cycle.is_answered:
            if cycle.response.keeps_alive and rest is not None:
                return await self._next_head(rest)
            await self._transport.close(unread=bool(rest) or not cycle.body.is_complete)
        return None

    def _new_cycle(self, head: Head) -> RequestCycle:
        config = self._shared.config
        parser = h11.Connection(
            h11.SERVER, max_incomplete_event_size=config.limits.max_head_bytes + PIECE_BYTES
        )
        parser.receive_data(without_offers(head))
        request = parser.next_event()
        assert isinstance(request, h11.Request), "the head has been parsed before"
        path, _, query = head.target.partition("?")
        scope = {
            **self._scope,
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": head.http_version,
            "method": head.method.upper(),
            "path": head.path,
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": list(request.headers),
            "state": {},
            "extensions": {},
            "trioserver.local": self._admitted.is_local(head),
        }
        self._requests += 1
        return RequestCycle(
            self._application, scope, parser, self._transport, is_last=self._is_last
        )

    def _is_last(self) -> bool:
        return self._shared.is_draining or self._requests >= _MAX_REQUESTS

    async def _run(self, cycle: RequestCycle) -> None:
        try:
            await cycle.run()
        finally:
            self._cycles.discard(cycle)

    async def _receive_request(self, cycle: RequestCycle, data: bytes) -> bytes | None:
        """Receive the rest of a request, then watch whether the client closes the connection.

        Return what came after the request; None if the client sends no more.
        """
        config = self._shared.config.http
        if cycle.body.is_complete:
            await cycle.pass_body()
        else:
            try:
                if not data:
                    await cycle.send_continue()
                data = await receive_body(cycle, self._transport, data, config)
            except RequestRejected as rejected:
                cycle.fail(rejected)
        if cycle.done.is_set():
            return data
        if not cycle.response.is_started:
            cycle.limit(config.response_timeout)
        received = data or await self._transport.receive(math.inf)
        if received == b"":
            # The client may have closed for sending only, so the response goes on.
            self._limit_cycles()
            cycle.disconnect()
            return None
        return received or b""

    def _limit_cycles(self) -> None:
        for cycle in self._cycles:
            cycle.limit(self._shared.config.http.response_timeout)

    async def _next_head(self, rest: bytes) -> Head | None:
        """Read the head of the next request; return None if the connection has ended.

        The head passes the same checks as that of the first.
        """
        begun = b"" if self._shared.is_draining else rest or await self._wait_for_request()
        if not begun:
            await self._transport.close(unread=bool(rest))
            return None
        head: Head | None = None
        limits = self._shared.config.limits
        try:
            with trio.fail_after(limits.head_timeout):
                stream = self._admitted.stream
                head = await read_head(stream, max_bytes=limits.max_head_bytes, begun=begun)
            check_head(head)
            if not head.is_upgrade:  # an opening handshake is checked when it is served
                self._admitted.check(head)
        except RequestRejected as rejected:
            await self._admitted.refuse(rejected, head)
        except (ClientDisconnected, trio.TooSlowError):
            pass
        else:
            return head
        return None

    async def _wait_for_request(self) -> bytes | None:
        self._is_idle = True
        self._admitted.slot.idle(True)
        try:
            return await self._transport.receive(self._shared.config.http.keep_alive_timeout)
        finally:
            self._is_idle = False
            self._admitted.slot.idle(False)
