"""What happens with a stream that was accepted, until it is a connection that runs its life."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from protocol import Refusal
from trioserver.addresses import plain
from trioserver.admission import Ticket
from trioserver.application import Application, Match
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.gate import Gate
from trioserver.lifecycle import Lifecycle
from trioserver.observer import Observer, Observers
from trioserver.opening import judge, new_connection
from trioserver.registry import Registry
from trioserver.websocket.handshake import BadHead, Head, PeerLeft, read_head, refuse
from trioserver.websocket.listeners import remote_of
from trioserver.websocket.proxy_protocol import BadProxyHeader, read_proxy_header
from trioserver.websocket.readiness import Readiness

log: Final = structlog.get_logger("trioserver")


class FrontDoor:
    """Admits, reads the head of the request, judges it, and hands it on.

    ``closed_for`` is what new connections are refused with; None while they are welcome.
    ``accepted`` counts all streams; the ``gate`` counts the rest.
    """

    def __init__(
        self,
        application: Application,
        config: Config,
        *,
        registry: Registry,
        readiness: Readiness | None,
        observer: Observer,
        wall_clock: Callable[[], float],
    ) -> None:
        self.gate = Gate(config, observer)
        self.accepted = 0
        self.closed_for: Refusal | None = None
        self._application = application
        self._config = config
        self._registry = registry
        self._readiness = readiness
        self._observer = Observers([self.gate, observer])
        self._wall_clock = wall_clock

    async def serve_stream(
        self, stream: trio.abc.Stream, *, remote: str | None = None, proxied: bool = False
    ) -> None:
        """Serve one stream to its end. Raises nothing but `trio.Cancelled`.

        ``proxied``: it begins with a header of the PROXY protocol.
        """
        self.accepted += 1
        peer = plain(remote_of(stream) if remote is None else remote)
        with trio.CancelScope() as scope:
            ticket = self.gate.enter(scope.cancel, peer, known=not proxied)
            if ticket is None:
                await trio.aclose_forcefully(stream)
                return
            try:
                await self._serve(stream, ticket, peer, proxied)
            except* Exception:
                log.exception("stream_crashed")
            finally:
                self.gate.admission.leave(ticket)
                await trio.aclose_forcefully(stream)

    async def _serve(
        self, stream: trio.abc.Stream, ticket: Ticket, peer: str, proxied: bool
    ) -> None:
        limits = self._config.limits
        try:
            with trio.fail_after(limits.head_timeout):
                if proxied:
                    peer = await self._announced(stream, peer)
                    if not self.gate.announce(ticket, peer):
                        return
                head = await read_head(stream, max_bytes=limits.head_bytes)
        except BadProxyHeader as bad:
            self.gate.drop_bad_proxy(peer, str(bad))
        except BadHead as bad:
            await self._refuse(stream, bad, peer, path="")
        except (PeerLeft, trio.TooSlowError) as error:
            log.debug("no_request", remote=peer, why=type(error).__name__)
        else:
            remote = self.gate.identify(ticket, peer, head)
            await self._answer(stream, head, ticket, remote)

    async def _announced(self, stream: trio.abc.Stream, peer: str) -> str:
        """Who a trusted proxy says that it is, or else the proxy. Raises `BadProxyHeader`."""
        if not self.gate.may_announce(peer):
            raise BadProxyHeader("the peer is not in proxy.trusted")
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(transport, trio.SocketStream), "only sockets are listened on"
        try:
            return plain(await read_proxy_header(transport.socket) or peer)
        except OSError:
            raise PeerLeft from None

    async def _answer(
        self, stream: trio.abc.Stream, head: Head, ticket: Ticket, remote: str
    ) -> None:
        try:
            self.gate.check(remote, head)
            match = judge(head, self._application)
            self.gate.check_origin(match.route, head, secure=isinstance(stream, trio.SSLStream))
        except BadHead as bad:
            await self._refuse(stream, bad, remote, head.path)
        else:
            await self._run_connection(stream, head, match, ticket, remote)

    async def _refuse(self, stream: trio.abc.Stream, bad: BadHead, remote: str, path: str) -> None:
        self.gate.refuse(bad, remote, path)
        await refuse(stream, bad)

    async def _run_connection(
        self, stream: trio.abc.Stream, head: Head, match: Match, ticket: Ticket, remote: str
    ) -> None:
        connection = new_connection(
            stream,
            head,
            match,
            config=self._config,
            remote=remote,
            wall_clock=self._wall_clock,
            readiness=self._readiness,
        )
        ticket.evict = partial(connection.disconnect, "server_busy")
        lifecycle = Lifecycle(
            connection,
            config=self._config,
            observer=self._observer,
            on_auth=partial(self.gate.admission.verifying, ticket),
            on_ready=partial(self._on_ready, ticket),
            on_refused=partial(self.gate.admission.refused, ticket),
        )
        busy = Refusal("server_busy") if self.gate.admission.is_full else None
        self._registry.add(connection)
        try:
            await lifecycle.run(head, self.closed_for or busy)
        finally:
            self._registry.remove(connection)
            if connection._session.close is not None and connection._session.close.reason:
                self.gate.refused[connection._session.close.reason] += 1

    def _on_ready(self, ticket: Ticket, connection: Connection) -> None:
        self.gate.admission.authenticated(ticket)
        self._registry.became_ready(connection, self._config.limits.connections_per_user)
        self._observer.became_ready(connection)
