"""The life of one connection, from the judged handshake to the log line at its end.

Two nurseries, and their nesting is the order of the end: the outer one holds what moves bytes,
the inner one all that works on their behalf. The inner one is cancelled first, then the peer is
told and the WebSocket closed, then the outer one ends. Whatever is raised stops here.
"""

from __future__ import annotations

import math
from typing import Protocol

import trio

from protocol import Disconnect, Refusal, ServerState
from protocol.messages import Auth, Message
from trioserver.app.connection import Connection
from trioserver.app.functions import call
from trioserver.auth import Credentials, User
from trioserver.auth.blocks import Blocks
from trioserver.auth.fingerprint import fingerprint
from trioserver.config import Config
from trioserver.lifecycle.reporting import Account
from trioserver.lifecycle.dispatch.dispatcher import Dispatcher
from trioserver.lifecycle.heartbeat import Heartbeat
from trioserver.lifecycle.verification import verify
from trioserver.logs.context import BoundConnection
from trioserver.logs.lines import may_log
from trioserver.telemetry.counts import Counts
from trioserver.telemetry.observer import Observer
from trioserver.telemetry.phases import Phase, PhaseTimes
from trioserver.telemetry.tracing import Tracing, step
from trioserver.websocket.errors import without_departure
from trioserver.websocket.handshake import Head


class Place(Protocol):
    """What a connection has among those that have come in. Plain functions; they must not raise."""

    def verifying(self) -> None:
        """It has sent its first token, and waits for us."""

    def verified(self) -> bool:
        """It is authenticated and authorized; `ready` has not left yet. False where there is no
        room for one more such connection."""

    def ready(self, connection: Connection) -> None:
        """It is READY: `ready` has left."""

    def refused(self) -> None:
        """It will never be."""


class Lifecycle:
    """Runs a `Connection`; it is also the `Receiver` of its WebSocket's messages.

    ``head`` is the request, judged already; ``begun`` is when its stream was accepted, by Trio's
    clock.
    """

    __slots__ = (
        "_account", "_blocks", "_config", "_dispatcher", "_head", "_io", "_nap", "_place",
        "_session", "_websocket", "connection",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        head: Head,
        *,
        place: Place,
        config: Config,
        blocks: Blocks,
        counts: Counts,
        observer: Observer,
        tracing: Tracing | None,
        begun: float,
    ) -> None:
        self.connection = connection
        self._head: Head | None = head
        self._place = place
        self._config = config
        self._blocks = blocks
        self._account = Account(connection, observer)
        connection._phases = PhaseTimes(begun)
        self._session = connection._session
        self._websocket = connection._websocket
        self._websocket.on_round_trip = counts.round_trips.add
        connection._tracing = None if tracing is None else tracing.of(connection)
        self._dispatcher = Dispatcher(
            connection,
            limits=config.limits,
            handlers=config.handlers,
            times=counts.handling.of(connection.route),
        )
        self._nap = trio.CancelScope()  # of the heartbeat loop
        self._io: trio.Nursery | None = None

    # -------------------------------------------------------------------------- the whole life

    async def run(self, refusal: Refusal | None = None) -> None:
        """Serve the connection to its end; with ``refusal``, only tell it why not.

        Raises nothing but `trio.Cancelled`.
        """
        with BoundConnection(self.connection.id):
            try:
                async with trio.open_nursery() as io:
                    self._io = io
                    await self._live(io, refusal)
                    await self._close()
                    io.cancel_scope.cancel()
            except* Exception as errors:
                self._crashed(errors)
            finally:
                self._io = None
                self.connection._release()
                try:
                    self._account.closed()
                    await self._call_close_hook()
                finally:
                    self._websocket.let_go()

    def abort(self) -> None:
        """End at once; what is queued, and the closing handshake, are left out."""
        if self._io is not None:
            self._io.cancel_scope.cancel()

    async def _live(self, io: trio.Nursery, refusal: Refusal | None) -> None:
        connection = self.connection
        try:
            async with trio.open_nursery() as work:
                connection._nursery = work
                self._begin(io, refusal)
                await self._until_settled()
                self._has_settled()
                if connection._was_ready:
                    self._dispatcher.start()  # also if it has ended already: `on_close` is called
                    if connection.route.mailbox is not None:
                        work.start_soon(connection.route.mailbox.serve, connection)
                    await self._beat()
                await connection._ended.wait()
                work.cancel_scope.cancel()
        except* Exception as errors:
            remains = without_departure(errors, connection.id)
            if remains is not None:
                self._crashed(remains)
                connection._fail(Refusal("internal_error"))
            if connection._settled is not None and connection._phases.awaiting_auth is not None:
                self._has_settled()
        finally:
            connection._nursery = None

    def _begin(self, io: trio.Nursery, refusal: Refusal | None) -> None:
        """Answer the opening handshake, and greet or refuse; then messages may come."""
        connection = self.connection
        head, self._head = self._head, None  # thousands of these would be kept for nothing
        assert head is not None, "it runs once"
        with step(connection, "handshake"):
            self._websocket.accept(io, head)
        connection._phases.enter(Phase.AWAITING_AUTH, trio.current_time())
        if refusal is None:
            query = head.query if connection.route.allow_query_token else {}
            token = query.get("token")
            self._session.start(token=token, heartbeat=query.get("heartbeat"))
            if token is not None:
                self._verify_first(Credentials(source="query", token=token))
        connection._flush()
        self._websocket.start(io, self)
        if refusal is not None:
            connection._fail(refusal)

    async def _until_settled(self) -> None:
        """One scope over everything before READY: receiving, verifying, and sending the answer."""
        deadline, settled = self._session.deadline, self.connection._settled
        if deadline is None or settled is None:
            return  # refused
        with trio.CancelScope(deadline=deadline) as scope:
            await settled.wait()
        if scope.cancelled_caught and not settled.is_set():  # in this very tick it may have been
            self.connection._fail(Refusal("auth_timeout"))

    def _has_settled(self) -> None:
        """The first authentication is over, however it has ended."""
        self.connection._settled = None
        self._account.settled()
        if not self.connection._was_ready:
            self._place.refused()

    async def _close(self) -> None:
        """The reason is queued already; now the Close frame, and what the peer says to it."""
        close = self._session.close
        assert close is not None, "ended without saying how"
        shutdown = self._config.shutdown
        ready = self.connection._was_ready
        timeout = shutdown.close_timeout if ready else shutdown.close_timeout_before_ready
        await self._websocket.close(close.code, close.reason, timeout=timeout)

    # -------------------------------------------------------------------------- what arrives

    @property
    def about_to_send(self) -> bool:
        """Whether the message loop is about to answer."""
        return self._dispatcher.about_to_answer

    def received(self, messages: list[bytes]) -> None:
        """A batch of messages, in order."""
        run = self._dispatcher.run_in_context
        if run is None:
            self._take(messages)
        else:
            run(self._take, messages)

    def _take(self, messages: list[bytes]) -> None:
        session, dispatcher = self._session, self._dispatcher
        now, count = self._websocket.last_received, len(messages)
        charged = count > 1 and session.charge(count, sum(map(len, messages)), now)
        try:
            for data in messages:
                message = session.receive(data, now, charged=charged)
                if session.outgoing:
                    self.connection._flush()
                if type(message) is Message:
                    dispatcher.take(message, len(data))
                elif message is not None:
                    self._handle(message, len(data))
                if session.close is not None:
                    break
        except Exception as error:
            self._crashed(error)
            self.connection._fail(Refusal("internal_error"))

    def _handle(self, message: object, size: int) -> None:
        if not isinstance(message, Auth):
            self._dispatcher.dispatch(message, size)
            return
        session = self._session
        credentials = Credentials(source="message", token=message.token, fields=session.auth_fields)
        if session.state is ServerState.VERIFYING:
            self._verify_first(credentials)
        else:
            self.connection.start_soon(self._refresh, credentials)

    def failed(self, code: str) -> None:
        """The peer broke a rule."""
        self.connection._fail(Refusal(code))

    def left(self) -> None:
        """The peer has gone; nobody is left to be told anything."""
        self._session.end()
        self.connection._flush()

    # -------------------------------------------------------------------------- verifying

    def _verify_first(self, credentials: Credentials) -> None:
        self.connection._phases.enter(Phase.AUTHENTICATING, trio.current_time())
        self._place.verifying()
        self._account.token = fingerprint(credentials.token)
        self.connection.start_soon(self._admit, credentials)

    async def _admit(self, credentials: Credentials) -> None:
        connection, session = self.connection, self._session
        try:
            user = await self._verify(credentials)
        except Refusal as refusal:
            connection._fail(refusal, None if session.auth is None else session.auth.id)
            return
        if session.state is not ServerState.VERIFYING:
            return  # something else has ended it in the meantime
        if not self._place.verified():
            connection._fail(
                Refusal("server_busy"), None if session.auth is None else session.auth.id
            )
            return
        now = trio.current_time()
        session.accept_auth(
            now=now,
            wall=connection._wall_clock(),
            connection_id=connection.id,
            user={**user.public, "id": user.id},
            resource=connection.resource,
            expires_at=user.expires_at,
        )
        connection._acknowledges = credentials.fields.get("mailbox") == "ack"
        self._websocket.max_message_bytes = session.max_message_bytes
        self._websocket.expect_more()
        connection._flush()
        position = self._websocket.outbox.position
        for message in session.receive_held(now):
            self._handle(message, session.options.max_message_bytes_before_ready)
        connection._flush()
        self._websocket.outbox.call_when_left(position, self._became_ready)

    def _became_ready(self) -> None:
        """`ready` has left. Until then the connection is like one that is being verified: a peer
        that does not read its `ready` was never there."""
        connection = self.connection
        if connection._session.close is not None:
            return
        connection._phases.enter(Phase.READY, trio.current_time())
        try:
            self._place.ready(connection)
        except Exception as error:  # of an observer; whoever was sending must not pay for it
            self._crashed(error)
            connection._fail(Refusal("internal_error"))
        connection._settle()

    async def _refresh(self, credentials: Credentials) -> None:
        """A new token on the same connection: the same user, and ownership verified again."""
        session, begun = self._session, trio.current_time()
        self._account.token = fingerprint(credentials.token)
        try:
            with trio.move_on_after(self._config.auth.timeout) as scope:
                user = await self._verify(credentials)
            if scope.cancelled_caught:
                raise Refusal("unavailable")
        except Refusal as refusal:
            if session.state is ServerState.REFRESHING:
                self._refuse_refresh(refusal)
                self._account.refreshed(refusal.code, begun)
        else:
            if session.state is ServerState.REFRESHING:
                self.connection._user = user
                now, wall = trio.current_time(), self.connection._wall_clock()
                session.accept_refresh(now=now, wall=wall, expires_at=user.expires_at)
                self._nap.cancel()  # what is due next has changed
                self._account.refreshed("refreshed", begun)
        self.connection._flush()

    def _refuse_refresh(self, refusal: Refusal) -> None:
        """What is not the client's fault leaves it with the token it has."""
        passing = refusal.code in ("unavailable", "internal_error")
        if passing and not isinstance(refusal, Disconnect):
            self._session.reject_refresh(refusal, trio.current_time())
        else:
            auth = self._session.auth
            self._session.fail(refusal, None if auth is None else auth.id)

    async def _verify(self, credentials: Credentials) -> User:
        return await verify(
            self.connection,
            credentials,
            blocks=self._blocks,
            authorization_timeout=self._config.auth.authorization_timeout,
        )

    # -------------------------------------------------------------------------- time

    async def _beat(self) -> None:
        """The heartbeat loop, until the connection has ended. It also warns of the token's end, and
        ends with it. It is where the connection's own task waits: one more would be a tenth of
        the memory of an idle connection."""
        session, connection = self._session, self.connection
        heartbeat = Heartbeat(connection, self._config.heartbeat)
        while session.close is None:
            deadline = math.inf if session.deadline is None else session.deadline
            with trio.CancelScope(deadline=min(heartbeat.due, deadline)) as self._nap:
                await connection._ended.wait()
            heartbeat.beat()
            session.tick(trio.current_time(), connection._wall_clock())
            connection._flush()

    # -------------------------------------------------------------------------- the end

    def _crashed(self, error: Exception) -> None:
        self._account.failed("connection_crashed", error)

    async def _call_close_hook(self) -> None:
        connection, hook = self.connection, self.connection.route.close_hook
        if not connection._was_ready or hook is None:
            return
        try:
            with (
                BoundConnection(connection.id, connection.user.id),
                trio.fail_after(self._config.handlers.timeout),
            ):
                await call(hook, connection)
        except Exception as error:
            remains = without_departure(error, connection.id)
            if remains is None:
                if may_log("close_hook_stopped", user=connection.user.id):
                    connection.log.warning(
                        "close_hook_stopped", reason="it sent to this connection"
                    )
            else:
                self._account.failed("close_hook_failed", remains)
