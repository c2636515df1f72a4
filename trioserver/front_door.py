"""What happens with a stream that was accepted, until it is a connection that runs its life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from protocol import Refusal
from trioserver.admission import Admission, Ticket
from trioserver.application import Application, Match
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.lifecycle import Lifecycle
from trioserver.observer import Observer, RefusedRequest
from trioserver.opening import judge, new_connection
from trioserver.registry import Registry
from trioserver.websocket.handshake import BadHead, Head, PeerLeft, read_head, refuse
from trioserver.websocket.listeners import remote_of
from trioserver.websocket.readiness import Readiness

log: Final = structlog.get_logger("trioserver")


class FrontDoor:
    """Admits, reads the head of the request, judges it, and hands it on.

    ``closed_for`` is what new connections are refused with; None while they are welcome.
    ``refused`` counts refusals by code, ``accepted`` all streams.
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
        self.admission = Admission(
            max_connections=config.limits.connections,
            max_unauthenticated=config.limits.unauthenticated,
        )
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.closed_for: Refusal | None = None
        self._application = application
        self._config = config
        self._registry = registry
        self._readiness = readiness
        self._observer = observer
        self._wall_clock = wall_clock

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str | None = None) -> None:
        """Serve one stream to its end. Raises nothing but `trio.Cancelled`."""
        self.accepted += 1
        with trio.CancelScope() as scope:
            ticket = self.admission.enter(scope.cancel)
            if ticket is None:
                self.refused["server_busy"] += 1
                await trio.aclose_forcefully(stream)
                return
            try:
                await self._serve(stream, ticket, remote_of(stream) if remote is None else remote)
            except* Exception:
                log.exception("stream_crashed")
            finally:
                self.admission.leave(ticket)
                await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream, ticket: Ticket, remote: str) -> None:
        limits = self._config.limits
        try:
            with trio.fail_after(limits.head_timeout):
                head = await read_head(stream, max_bytes=limits.head_bytes)
        except BadHead as bad:
            await self._refuse(stream, bad, remote, path="")
        except (PeerLeft, trio.TooSlowError) as error:
            log.debug("no_request", remote=remote, why=type(error).__name__)
        else:
            await self._answer(stream, head, ticket, remote)

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
        if connection.route._presence is not None:
            connection.route._presence._arrived(connection)
        self._observer.became_ready(connection)
