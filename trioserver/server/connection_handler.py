"""From an accepted stream to a connection: admission, the head of the request, and routing."""

from __future__ import annotations

import ssl
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from protocol import Refusal
from trioserver.app.application import RouteMatch
from trioserver.config import Config
from trioserver.lifecycle.context import ConnectionContext
from trioserver.lifecycle.lifecycle import Lifecycle
from trioserver.lifecycle.opening import match_route, new_connection
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.peers.addresses import plain
from trioserver.server.admission.memory import check_send_queue
from trioserver.server.admission.slot import Slot
from trioserver.server.admitted import AdmittedStream
from trioserver.server.context import ServerContext
from trioserver.server.http_side import HttpSide
from trioserver.websocket.handshake import ClientDisconnected, Head, RequestRejected, read_head
from trioserver.websocket.listeners import remote_of
from trioserver.websocket.proxy_protocol import BadProxyHeader, read_proxy_header
from trioserver.websocket.send_limits import largest_payload
from trioserver.websocket.strictness import check_head
from trioserver.websocket.tls_stream import TLSStream

log: Final = structlog.get_logger("trioserver")


@attrs.define
class _AcceptedStream:
    """A stream that was accepted.

    - ``peer``: the address of the socket, or the one that a PROXY header has named.
    - ``proxied``: the PROXY header has not been read yet.
    - ``builtin``: it came to the listener of the built-in routes, which serves nothing else.
    """

    stream: trio.abc.Stream
    peer: str
    proxied: bool
    builtin: bool


class ConnectionHandler:
    """Admits a stream, reads the head of its first request, and hands it to a `Lifecycle` or HTTP.

    - ``accepted``: the number of streams so far.
    - ``closed_for``: what new connections are refused with; None while they are accepted.
    - ``http``: answers all requests that are not opening handshakes; None if there is no HTTP side.
    """

    def __init__(self, context: ServerContext, config: Config) -> None:
        self.accepted = 0
        self.closed_for: Refusal | None = None
        self.http: HttpSide | None = None
        self._context = context
        self._admission = context.admission
        self._config = config
        self._connection_context = self._make_connection_context()
        self._on_ready = self._became_ready  # one bound method for all connections
        self._limit_messages()

    def reconfigure(self, config: Config) -> None:
        """Use other options for new connections, and other limits for all."""
        self._config = config
        self._connection_context = self._make_connection_context()
        self._context.lines.reconfigure(config.log.lines_per_source, config.log.lines_per_second)
        self._context.memory.limit = config.limits.max_memory_bytes
        self._admission.reconfigure(config)
        self._limit_messages()

    def _make_connection_context(self) -> ConnectionContext:
        context = self._context
        return ConnectionContext(
            config=self._config,
            blocks=context.blocks,
            metrics=context.metrics,
            observer=context.observers,
            tracing=context.tracing,
            wall_clock=context.wall_clock,
            poller=context.poller,
            memory=context.memory,
        )

    def _limit_messages(self) -> None:
        """Have applications refuse messages that are larger than what can be sent."""
        check_send_queue(self._config)
        for part in self._context.application.parts:
            part.limit_messages(self, largest_payload(self._config.send_queue.max_bytes))

    async def serve_stream(
        self,
        stream: trio.abc.Stream,
        *,
        remote: str | None = None,
        proxied: bool = False,
        builtin: bool = False,
    ) -> None:
        """Serve one stream until it ends. Raises nothing but `trio.Cancelled`.

        ``proxied``: it begins with a PROXY header. ``builtin``: it came to the listener of the
        built-in routes.
        """
        self._context.lines.use()  # the stream may be an embedder's, and the task too
        self.accepted += 1
        peer = plain(remote_of(stream) if remote is None else remote)
        accepted = _AcceptedStream(stream, peer, proxied, builtin)
        try:
            upgrade = await self._serve_in_slot(accepted, None)
            if upgrade is not None:  # it came after HTTP requests: admit it like a new connection
                await self._serve_in_slot(accepted, upgrade)
        except* Exception as errors:
            # The traceback is formatted here, because an embedder's structlog may print the
            # variables of each frame. If logging raises, for example because the disk is full,
            # only this stream may end.
            with suppress(Exception):
                if may_log("connection_handler_failed", peer, traceback=True):
                    log.error("connection_handler_failed", traceback=traceback_of(errors))
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_in_slot(self, accepted: _AcceptedStream, head: Head | None) -> Head | None:
        """Serve a stream in a slot of its own. ``head``: of its first request, if that was read.

        Return the head of an opening handshake if one comes after HTTP requests.
        """
        scope = trio.CancelScope()  # cancelled by an eviction while the head is read
        slot = self._admission.enter(scope.cancel, accepted.peer, known=not accepted.proxied)
        if slot is None:
            return None
        with slot:
            if head is None:
                head = await self._read_head(accepted, slot, scope)
            serving = None if head is None else self._serve(accepted, slot, head)
            del head  # thousands of these would take much memory
            return None if serving is None else await serving

    async def _read_head(
        self, accepted: _AcceptedStream, slot: Slot, scope: trio.CancelScope
    ) -> Head | None:
        head = None
        limits = self._config.limits
        scope.deadline = slot.since + limits.head_timeout
        try:
            with scope:
                if accepted.proxied:
                    accepted.peer = await self._read_proxy_header(accepted.stream, accepted.peer)
                    accepted.proxied = False
                    if not self._admission.announce(slot, accepted.peer):
                        return None
                head = await read_head(accepted.stream, max_bytes=limits.max_head_bytes)
            if head is None:  # it was evicted, or has been too slow
                if trio.current_time() >= scope.deadline:
                    log.debug("request_incomplete", remote=accepted.peer, reason="timeout")
                return None
            check_head(head)
        except BadProxyHeader as bad:
            self._admission.drop_bad_proxy(accepted.peer, str(bad))
        except RequestRejected as rejection:
            await self._admitted(accepted, slot, accepted.peer).refuse(rejection, head)
        except ClientDisconnected as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
                if may_log("tls_handshake_failed", accepted.peer):
                    log.info("tls_handshake_failed", remote=accepted.peer, reason=cause.reason)
            else:
                log.debug("request_incomplete", remote=accepted.peer, reason="client_disconnected")
        else:
            return head
        return None

    def _serve(
        self, accepted: _AcceptedStream, slot: Slot, head: Head
    ) -> Coroutine[Any, Any, Head | None]:
        """Return the coroutine that serves the stream.

        Not async itself: another frame would take memory for as long as the connection lasts.
        """
        remote = self._admission.identify(slot, accepted.peer, head)
        admitted = self._admitted(accepted, slot, remote)
        if self.http is not None and not head.is_upgrade:
            return self._serve_http(self.http, admitted, head)
        try:
            if accepted.builtin:
                raise RequestRejected(404, "There is no WebSocket at this address.")
            admitted.check(head)
            match = match_route(head, self._context.application)
            admitted.check_origin(head, match.route.origins)
        except RequestRejected as rejection:
            return admitted.refuse(rejection, head)
        return self._run(self._lifecycle(admitted, head, match))

    def _admitted(self, accepted: _AcceptedStream, slot: Slot, remote: str) -> AdmittedStream:
        return AdmittedStream(
            stream=accepted.stream,
            slot=slot,
            peer=accepted.peer,
            remote=remote,
            builtin=accepted.builtin,
            admission=self._admission,
        )

    async def _serve_http(
        self, http: HttpSide, admitted: AdmittedStream, head: Head
    ) -> Head | None:
        # A probe is always answered: a server that is full must not be taken for dead.
        probe = admitted.builtin or http.has_builtin(head.path)
        try:
            admitted.check(head)
            if self._admission.limiter.is_full and not probe:
                raise RequestRejected(503, "The server is full. Try again later.")
        except RequestRejected as rejection:
            await admitted.refuse(rejection, head)
            return None
        admitted.slot.serve_http(spare=probe)
        return await http.serve(admitted, head)

    async def _read_proxy_header(self, stream: trio.abc.Stream, peer: str) -> str:
        """Return the client that a PROXY header names; the proxy if it names none.

        Raises `BadProxyHeader`.
        """
        if not self._admission.policy.is_trusted_proxy(peer):
            raise BadProxyHeader("the peer is not in proxy.trusted")
        transport = stream.transport_stream if isinstance(stream, TLSStream) else stream
        assert isinstance(transport, trio.SocketStream), "only sockets are listened on"
        try:
            return plain(await read_proxy_header(transport.socket) or peer)
        except OSError:
            raise ClientDisconnected from None

    def _lifecycle(self, admitted: AdmittedStream, head: Head, match: RouteMatch) -> Lifecycle:
        slot = admitted.slot
        connection = new_connection(
            admitted.stream,
            head,
            match,
            self._connection_context,
            remote=admitted.remote,
            accepted_at=slot.since,
        )
        lifecycle = Lifecycle(connection, head, slot=slot, on_ready=self._on_ready)
        slot.evict, slot.abort = partial(connection.disconnect, "server_busy"), lifecycle.abort
        slot.closes_gracefully = True
        return lifecycle

    async def _run(self, lifecycle: Lifecycle) -> None:
        connection = lifecycle.connection
        busy = Refusal("server_busy") if self._admission.limiter.is_full else None
        self._context.registry.add(connection)
        try:
            await lifecycle.run(self.closed_for or busy)
        finally:
            self._context.registry.remove(connection)
            self._context.metrics.removed(connection.statistics())

    def _became_ready(self, connection: ServerConnection) -> None:
        """Make a connection visible to the registry, presence and observers."""
        context = self._context
        context.registry.became_ready(connection, self._config.limits.max_connections_per_user)
        if connection.route.has_presence:
            connection.route.presence.join(connection.facade, context.wall_clock())
        context.observers.on_ready(connection.facade)
