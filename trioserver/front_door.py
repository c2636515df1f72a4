"""What happens with a stream that was accepted, until it is a connection that runs its life."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from protocol import Refusal
from trioserver.admission import Admission, Ticket
from trioserver.application import Application, Match
from trioserver.blocks import Blocks
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.http.strictness import check_head
from trioserver.lifecycle import Lifecycle
from trioserver.observer import Observer, RefusedRequest
from trioserver.opening import judge, new_connection
from trioserver.registry import Registry
from trioserver.websocket.handshake import BadHead, Head, PeerLeft, read_head, refuse
from trioserver.websocket.listeners import remote_of
from trioserver.websocket.readiness import Readiness

if TYPE_CHECKING:
    from trioserver.http.service import HttpService

log: Final = structlog.get_logger("trioserver")


class FrontDoor:
    """Admits, reads the head of the request, judges it, and hands it on.

    ``closed_for`` is what new connections are refused with; None while they are welcome.
    ``refused`` counts refusals by code, ``accepted`` all streams. ``http`` answers what is not for
    a WebSocket; None where there is nothing to answer it with.
    """

    def __init__(
        self,
        application: Application,
        config: Config,
        *,
        registry: Registry,
        blocks: Blocks,
        readiness: Readiness | None,
        observer: Observer,
        wall_clock: Callable[[], float],
    ) -> None:
        self.admission = Admission(
            max_connections=config.limits.connections,
            max_unauthenticated=config.limits.unauthenticated,
        )
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.closed_for: Refusal | None = None
        self.http: HttpService | None = None
        self._application = application
        self._config = config
        self._registry = registry
        self._blocks = blocks
        self._readiness = readiness
        self._observer = observer
        self._wall_clock = wall_clock

    def reconfigure(self, config: Config) -> None:
        """Other options for connections from now on; those that are open keep what they have."""
        self._config = config
        self.admission.reconfigure(
            max_connections=config.limits.connections,
            max_unauthenticated=config.limits.unauthenticated,
        )

    async def serve_stream(
        self, stream: trio.abc.Stream, *, remote: str | None = None, builtin: bool = False
    ) -> None:
        """Serve one stream to its end. Raises nothing but `trio.Cancelled`.

        ``builtin``: it has come to the listener of the built-in routes, where nothing else is.
        """
        self.accepted += 1
        remote = remote_of(stream) if remote is None else remote
        try:
            upgrade = await self._admit(stream, remote, None, builtin)
            if upgrade is not None:  # HTTP came before it: it is admitted anew, as any other
                await self._admit(stream, remote, upgrade, builtin)
        except* Exception:
            log.exception("stream_crashed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _admit(
        self, stream: trio.abc.Stream, remote: str, head: Head | None, builtin: bool
    ) -> Head | None:
        """Serve it in a place of its own; an opening handshake that came after HTTP comes back."""
        with trio.CancelScope() as scope:
            ticket = self.admission.enter(scope.cancel)
            if ticket is None:
                self.refused["server_busy"] += 1
                return None
            try:
                head = head or await self._read_head(stream, remote)
                if head is None:
                    return None
                if builtin and head.is_upgrade:
                    bad = BadHead(404, "There is no WebSocket at this address.")
                    await self._refuse(stream, bad, remote, head.path)
                    return None
                if self.http is not None and not head.is_upgrade:
                    return await self._serve_http(self.http, stream, head, ticket, remote, builtin)
                await self._answer(stream, head, ticket, remote)
            finally:
                self.admission.leave(ticket)
        return None

    async def _read_head(self, stream: trio.abc.Stream, remote: str) -> Head | None:
        limits = self._config.limits
        path = ""
        try:
            with trio.fail_after(limits.head_timeout):
                head = await read_head(stream, max_bytes=limits.head_bytes)
            path = head.path
            check_head(head)
        except BadHead as bad:
            await self._refuse(stream, bad, remote, path)
        except (PeerLeft, trio.TooSlowError) as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
                log.info("tls_refused", remote=remote, reason=cause.reason)
            else:
                log.debug("no_request", remote=remote, why=type(error).__name__)
        else:
            return head
        return None

    async def _serve_http(
        self,
        http: HttpService,
        stream: trio.abc.Stream,
        head: Head,
        ticket: Ticket,
        remote: str,
        builtin: bool,
    ) -> Head | None:
        # It counts as an open connection, but not as one that has yet to authenticate: it never
        # will, and among those a long download would be the oldest. HTTP has a cap of its own.
        self.admission.authenticated(ticket)

        async def refuse(bad: BadHead, refused: Head | None) -> None:
            await self._refuse(stream, bad, remote, "" if refused is None else refused.path)

        # A probe is answered all the same: a server that is full must not be taken for dead.
        if self.admission.is_full and not (builtin or http.has_builtin(head.path)):
            await refuse(BadHead(503, "The server is full. Try again later."), head)
            return None
        return await http.serve(stream, head, remote=remote, refuse=refuse, builtin=builtin)

    async def _answer(
        self, stream: trio.abc.Stream, head: Head, ticket: Ticket, remote: str
    ) -> None:
        try:
            match = judge(head, self._application)
        except BadHead as bad:
            await self._refuse(stream, bad, remote, head.path)
        else:
            await self._run_connection(stream, head, match, ticket, remote)

    async def _refuse(self, stream: trio.abc.Stream, bad: BadHead, remote: str, path: str) -> None:
        log.info("request_refused", remote=remote, status=bad.status, reason=bad.reason)
        self._observer.request_refused(
            RefusedRequest(remote=remote, path=path, status=bad.status, reason=bad.reason)
        )
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
            blocks=self._blocks,
            observer=self._observer,
            on_ready=partial(self._on_ready, ticket),
        )
        busy = Refusal("server_busy") if self.admission.is_full else None
        self._registry.add(connection)
        try:
            await lifecycle.run(head, self.closed_for or busy)
        finally:
            self._registry.remove(connection)
            if connection._session.close is not None and connection._session.close.reason:
                self.refused[connection._session.close.reason] += 1

    def _on_ready(self, ticket: Ticket, connection: Connection) -> None:
        self.admission.authenticated(ticket)
        self._registry.became_ready(connection)
        self._observer.became_ready(connection)
