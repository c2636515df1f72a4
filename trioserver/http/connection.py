"""One HTTP connection: requests, one after the other, until it ends or becomes a WebSocket.

Hypercorn's `H11Protocol` turns bytes into ASGI and back. Here is what surrounds it: each head is
read and judged by the rules of the first one, a body is cut off where it ends, every wait has a
deadline, and nothing is sent in a shielded scope. Hypercorn's own `TCPServer` is not used: it would
read later heads itself, and a reader that has stalled would hold up its end.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import attrs
import structlog
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from trioserver.config import Config
from trioserver.http.body import Body
from trioserver.http.cycle import Application, ClientGone, Exchange
from trioserver.logs.paths import masked_path
from trioserver.websocket.handshake import Head, PeerLeft, RequestRejected, linger, read_head
from trioserver.websocket.pace import Pace
from trioserver.websocket.strictness import check_head, without_offers
from trioserver.websocket.tls_stream import is_secure

log: Final = structlog.get_logger("trioserver")

_PIECE: Final = 64 * 1024
"""Bytes of an answer that a deadline is for, and of a request that are read at once."""

_STEP: Final = 4 * 1024
"""Bytes of a body that are parsed at once, until it is known not to come in tiny pieces: of those,
64 KiB would hold everybody up for 50 ms."""

_SMALL: Final = 1024
_CHUNKS_OF_A_READ: Final = 4
"""A read of fewer bytes counts; chunks smaller than a KiB count as one for so many of them."""

_LINGER: Final = 1.0  # seconds; closing on unread input would reset the answer away

Address = tuple[str, int]
Check = Callable[[Head], None]
Refuse = Callable[[RequestRejected, Head | None], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the connections of one server share. ``context`` knows whether it is draining."""

    config: Config
    hypercorn: HypercornConfig
    context: WorkerContext


class HttpConnection:
    """Serves one stream. ``refuse`` answers a bad request, in the words of the front door.

    ``check`` raises `RequestRejected` for a request that is not welcome, but for the first one.
    ``is_local`` says whether a request is this machine's own: ``scope["trioserver.local"]``.
    ``on_idle`` is told when a wait for the next request begins and ends.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        application: Application,
        surroundings: Surroundings,
        *,
        client: Address | None,
        server: Address | None,
        on_idle: Callable[[bool], None],
        check: Check,
        is_local: Callable[[Head], bool],
        refuse: Refuse,
    ) -> None:
        self._stream = stream
        self._application = application
        self._context = surroundings.context
        self._limits = surroundings.config.limits
        self._config = surroundings.config.http
        self._on_idle = on_idle
        self._check = check
        self._is_local = is_local
        self._refuse = refuse
        self._is_secure = is_secure(stream)
        self._protocol = H11Protocol(
            cast(Any, application),  # it comes back to `spawn_app`, and is run there
            surroundings.hypercorn,
            self._context,
            cast(Any, self),  # the task group
            ConnectionState({}),
            self._is_secure,
            client,
            server,
            self._take,
        )
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._sending = trio.Lock()
        self._settled = trio.Event()
        self._body: Body | None = None
        self._exchanges: set[Exchange] = set()  # also those that work on behind their answer
        self._current: Exchange | None = None
        self._is_unread = False  # something that has come
        self._head: Head | None = None
        self._refusal: RequestRejected | None = None
        self._is_over = False  # after this answer
        self._is_gone = False  # nothing can be sent any more
        self._is_idle = False

    # -------------------------------------------------------------------------- from outside

    async def serve(self, head: Head) -> Head | None:
        """Serve this request and those that follow.

        Returns the head of an opening handshake, where one of them is that; the stream is open
        then. Otherwise it is done with.
        """
        upgrade: Head | None = None
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                upgrade = await self._serve_all(head)
                for exchange in self._exchanges:
                    exchange.limit(self._config.response_timeout)
                if upgrade is None and not self._is_gone:
                    await self._finish()
        return upgrade

    def abort(self) -> None:
        """End at once."""
        self._scope.cancel()

    def drain(self) -> None:
        """End after the answer that is being given, if there is any."""
        if self._is_idle:
            self._reading.cancel()

    # -------------------------------------------------------------------------- requests

    async def _serve_all(self, head: Head | None) -> Head | None:
        while head is not None and not head.is_upgrade:
            rest = await self._serve_one(head)
            if self._refusal is not None and not self._is_gone:
                await self._refuse(self._refusal, head)
                self._is_gone = True
            if self._is_over or self._is_gone:
                return None
            head = await self._next_head(rest)
        return head

    async def _serve_one(self, head: Head) -> bytes:
        """Returns what came behind the request."""
        self._head, self._current, self._settled = head, None, trio.Event()
        limit = self._limits.max_head_bytes + _PIECE
        self._body = body = Body(head, max_incomplete=limit)
        if int(head.header("content-length") or 0) > self._config.max_body_bytes:
            self._end(RequestRejected(413, "The body of the request is too large."))
            return b""
        await self._hand_over(without_offers(head))
        rest = await self._receive_body(body, head.rest)
        if self._current is not None and not self._current.started:
            self._current.limit(self._config.response_timeout)
        self._is_unread = not body.is_complete or bool(rest)
        if not rest:
            rest = await self._receive(math.inf)  # watches whether the client leaves
            if not rest and not self._settled.is_set():
                await self._lose()
        await self._settled.wait()
        return rest

    async def _receive_body(self, body: Body, data: bytes) -> bytes:
        """Hand over up to the end of the body; what is behind it comes back.

        A body in small pieces is read a little at a time, and at a bounded rate.
        """
        step, small_chunks = _STEP, 0
        pace = Pace(0, trio.current_time())
        while not (body.is_complete or self._settled.is_set()):
            if not data:
                data = await self._receive(self._config.body_timeout)
                pace.left -= len(data) < _SMALL
            used = body.take(data[:step]) if data else 0
            more = body.small_chunks - small_chunks
            step = _STEP if more > 0 else min(2 * step, _PIECE)
            small_chunks = body.small_chunks
            pace.left -= max(0, more) / _CHUNKS_OF_A_READ
            if body.size > self._config.max_body_bytes:
                self._end(RequestRejected(413, "The body of the request is too large."))
            elif body.has_too_many_chunks:
                self._end(RequestRejected(400, "The body comes in too many chunks for its size."))
            elif body.is_broken:
                self._end(RequestRejected(400, "The body of the request is not well-formed."))
            elif data:
                await self._hand_over(body.pass_on())
                if pace.left <= 0 and (rest := pace.rest(trio.current_time())):
                    await self._rest(rest)
            elif not self._settled.is_set():
                self._end(RequestRejected(400, "The body of the request breaks off."))
            data = data[used:]
        return data

    async def _rest(self, seconds: float) -> None:
        """Read no more for a while; the end of the answer is the end of that as well."""
        with trio.move_on_after(seconds):
            await self._settled.wait()

    async def _hand_over(self, data: bytes) -> None:
        """Give bytes to Hypercorn, which waits while the application does not read."""
        if not data:
            return
        with trio.move_on_after(self._config.response_timeout) as scope, suppress(ClientGone):
            await self._protocol.handle(RawData(data))
        if scope.cancelled_caught:
            self._end(RequestRejected(503, "The server did not answer in time. Try again later."))

    async def _receive(self, timeout: float) -> bytes:
        """Some bytes; none when the request is settled, or the client has left or is too slow."""
        if self._settled.is_set():
            return b""
        with trio.move_on_after(timeout) as self._reading:
            with suppress(trio.BrokenResourceError):
                return bytes(await self._stream.receive_some(_PIECE))
        if self._reading.cancelled_caught and not self._settled.is_set():
            self._end(RequestRejected(408, "The body of the request did not arrive in time."))
        return b""

    async def _next_head(self, rest: bytes) -> Head | None:
        """The head of the next request, by the same rules as the first; None where none comes."""
        if self._context.terminated.is_set():
            return None
        self._head = None
        try:
            begun = rest or await self._wait_for_request()
            if not begun:
                return None
            with trio.fail_after(self._limits.head_timeout):
                head = await read_head(
                    self._stream, max_bytes=self._limits.max_head_bytes, begun=begun
                )
            self._head = head
            check_head(head)
            if not head.is_upgrade:  # that is checked where it is served
                self._check(head)
        except RequestRejected as bad:
            await self._refuse(bad, self._head)
            self._is_gone = True
        except (PeerLeft, trio.TooSlowError):
            self._is_gone = True
        else:
            return head
        return None

    async def _wait_for_request(self) -> bytes:
        self._is_idle = True
        self._on_idle(True)
        try:
            with trio.move_on_after(self._config.keep_alive_timeout) as self._reading:
                return bytes(await self._stream.receive_some(_PIECE))
        except trio.BrokenResourceError:
            pass
        finally:
            self._is_idle = False
            self._on_idle(False)
        return b""

    # -------------------------------------------------------------------------- Hypercorn's side

    async def spawn_app(
        self, application: Any, config: Any, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Hypercorn has read a head: begin to answer it. Returns where it is to put the body."""
        assert self._head is not None, "a request without a head"
        scope["path"] = self._head.path
        scope["trioserver.local"] = self._is_local(self._head)
        scope["raw_path"] = self._head.target.partition("?")[0].encode("ascii")
        exchange = Exchange(self._application, scope, send, closes=self._closes)
        self._current = exchange
        self._exchanges.add(exchange)
        self._nursery.start_soon(self._run, exchange)
        return exchange.put

    def _closes(self) -> bool:
        """Whether the connection ends with the answer that begins now: also where that does not
        wait for the rest of the body."""
        whole = self._body is not None and self._body.is_complete
        return bool(self._context.terminated.is_set()) or not whole

    async def _run(self, exchange: Exchange) -> None:
        settled, begun = self._settled, trio.current_time()
        try:
            refusal = await exchange.run()
        finally:
            self._exchanges.discard(exchange)
        log.debug(
            "http_request",
            method=exchange.scope["method"],
            path=masked_path(exchange.scope["path"]),
            status=exchange.status or getattr(self._refusal or refusal, "status", None),
            duration_ms=round((trio.current_time() - begun) * 1000),
        )
        if settled.is_set():
            return  # it was answered before; what went wrong since then is in the log
        if refusal is None:
            with suppress(ClientGone):
                await exchange.end()
            settled.set()
            self._reading.cancel()
        else:
            self._end(refusal)

    async def _take(self, event: Event) -> None:
        """What Hypercorn wants done."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            self._is_over = True
            self._settle()
            await self._protocol.handle(Closed())
        elif isinstance(event, Updated) and event.idle:
            self._settle()

    async def _send(self, data: bytes) -> None:
        """Send, piece by piece, each by its deadline. Raises `ClientGone`."""
        view = memoryview(data)
        async with self._sending:
            for start in range(0, len(view), _PIECE):
                if self._is_gone or self._refusal is not None:
                    raise ClientGone
                try:
                    with trio.fail_after(self._config.send_timeout):
                        await self._stream.send_all(view[start : start + _PIECE])
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                    self._end(None)
                    raise ClientGone from None

    # -------------------------------------------------------------------------- ends

    def _settle(self) -> None:
        """This request needs nothing more of its connection."""
        self._settled.set()
        self._reading.cancel()

    def _end(self, refusal: RequestRejected | None) -> None:
        """End the connection: with a refusal, if nothing has been answered yet, else abruptly."""
        if self._current is not None:
            self._current.disconnect()
            if self._current.started:
                refusal = None
        self._refusal = refusal
        self._is_over = True
        self._is_gone = self._is_gone or refusal is None
        self._settle()

    async def _lose(self) -> None:
        """The client sends nothing more. It may still read, so the answer may go on."""
        self._is_over = True
        for exchange in self._exchanges:
            exchange.limit(self._config.response_timeout)
        await self._protocol.handle(Closed())

    async def _finish(self) -> None:
        """Close so that the last answer arrives."""
        lost = (trio.BrokenResourceError, trio.ClosedResourceError)
        if self._is_unread:
            with trio.move_on_after(_LINGER), suppress(*lost):
                await linger(self._stream)
        with trio.move_on_after(_LINGER), suppress(*lost):
            await self._stream.aclose()  # tells TLS that nothing is missing
