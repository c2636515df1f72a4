"""The life of one connection, from the checked handshake to the log line at its end.

There are two nurseries, and their nesting is the order of the end. Tasks of the outer one read and
write the socket; tasks of the inner one do everything else. The inner one is cancelled first, then
the reason is sent and the WebSocket is closed, then the outer one is cancelled. No exception but
`trio.Cancelled` leaves `Lifecycle.run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio

from protocol import Refusal, ServerState
from protocol.messages import Auth, Message
from trioserver.app.functions import call
from trioserver.auth import Credentials
from trioserver.auth.fingerprint import fingerprint
from trioserver.lifecycle.authentication import accept, refresh
from trioserver.lifecycle.dispatch.dispatcher import Dispatcher
from trioserver.lifecycle.heartbeat import Heartbeat
from trioserver.lifecycle.mailbox_recipient import MailboxRecipient
from trioserver.lifecycle.reporting import report_auth_done, report_closed, report_error
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.lifecycle.verification import verify
from trioserver.logs.context import BoundConnection
from trioserver.logs.lines import may_log
from trioserver.telemetry.phases import Phase
from trioserver.telemetry.tracing import step
from trioserver.websocket.errors import without_departure
from trioserver.websocket.handshake import Head


class AdmissionSlot(Protocol):
    """The connection's slot among all that the server admits. The methods must not raise."""

    def authenticating(self) -> None:
        """The client has sent its first token."""

    def ready(self) -> bool:
        """The client is authenticated and authorized, and `ready` can be sent.

        Returns False if there is no room for another such connection.
        """

    def closing(self) -> None:
        """The connection has ended before it was ready."""


class Lifecycle:
    """Runs a `ServerConnection`, and is the `MessageHandler` of its WebSocket's messages.

    ``head`` is the request, already checked. ``on_ready`` is called when `ready` has been written
    to the transport; it may raise, because it calls observers.
    """

    __slots__ = (
        "_dispatcher", "_head", "_io", "_on_ready", "_protocol", "_sleep", "_slot", "_websocket",
        "connection",
    )  # fmt: skip

    def __init__(
        self,
        connection: ServerConnection,
        head: Head,
        *,
        slot: AdmissionSlot,
        on_ready: Callable[[ServerConnection], None],
    ) -> None:
        context = connection.context
        if context.tracing is not None:
            connection.tracing = context.tracing.of(connection.id, connection.route.path)
        connection.websocket.pings.on_round_trip = context.metrics.round_trips.add
        self.connection = connection
        self._protocol = connection.protocol
        self._websocket = connection.websocket
        self._head: Head | None = head
        self._slot = slot
        self._on_ready = on_ready
        self._dispatcher = Dispatcher(connection)
        self._sleep = trio.CancelScope()  # of the heartbeat loop
        self._io: trio.Nursery | None = None

    # -------------------------------------------------------------------------- start and end

    async def run(self, refusal: Refusal | None = None) -> None:
        """Serve the connection to its end; with ``refusal``, only send that and close.

        Raises nothing but `trio.Cancelled`.
        """
        connection = self.connection
        with BoundConnection(connection.id):
            try:
                async with trio.open_nursery() as io:
                    self._io = io
                    await self._live(io, refusal)
                    await self._close()
                    io.cancel_scope.cancel()
            except* Exception as errors:
                report_error(connection, "connection_crashed", errors)
            finally:
                self._io = None
                connection.leave()
                try:
                    report_closed(connection)
                    await self._call_close_hook()
                finally:
                    connection.release()

    def abort(self) -> None:
        """End at once, without sending what is queued and without the closing handshake."""
        if self._io is not None:
            self._io.cancel_scope.cancel()

    async def _live(self, io: trio.Nursery, refusal: Refusal | None) -> None:
        connection = self.connection
        try:
            async with trio.open_nursery() as work:
                connection.nursery = work
                self._begin(io, refusal)
                await self._wait_auth_done()
                self._finish_auth()
                if connection.phases.ready is not None:
                    self._dispatcher.start()  # also if it has ended already: `on_close` is called
                    await self._keep_time_and_deliver()
                await connection.ended.wait()
                work.cancel_scope.cancel()
        except* Exception as errors:
            remains = without_departure(errors, connection.id)
            if remains is not None:
                self._crash(remains)
            if connection.auth_done is not None and connection.phases.awaiting_auth is not None:
                self._finish_auth()
        finally:
            connection.nursery = None

    def _begin(self, io: trio.Nursery, refusal: Refusal | None) -> None:
        """Answer the opening handshake and send `hello` or ``refusal``; then read messages."""
        connection = self.connection
        head, self._head = self._head, None  # else thousands of these would be kept for nothing
        assert head is not None, "it runs once"
        with step(connection.tracing, "handshake"):
            self._websocket.accept(io, head)
        connection.phases.enter(Phase.AWAITING_AUTH, trio.current_time())
        if refusal is None:
            query = connection.request.query if connection.route.allow_query_token else {}
            token = query.get("token")
            self._protocol.start(token=token, heartbeat=query.get("heartbeat"))
            if token is not None:
                self._start_authentication(Credentials(source="query", token=token))
        connection.flush()
        self._websocket.start(io, self)
        if refusal is not None:
            connection.fail(refusal)

    async def _wait_auth_done(self) -> None:
        """Wait for READY, or the end. One deadline covers receiving, verifying, and answering."""
        deadline, auth_done = self._protocol.deadline, self.connection.auth_done
        if deadline is None or auth_done is None:
            return  # refused
        with trio.CancelScope(deadline=deadline) as scope:
            await auth_done.wait()
        if scope.cancelled_caught and not auth_done.is_set():  # it may have been in this very tick
            self.connection.fail(Refusal("auth_timeout"))

    def _finish_auth(self) -> None:
        """Report the first authentication, however it has ended."""
        connection = self.connection
        connection.auth_done = None
        report_auth_done(connection)
        if connection.phases.ready is None:
            self._slot.closing()

    async def _close(self) -> None:
        """Close the WebSocket. The error that says why has been queued already."""
        close = self._protocol.close
        assert close is not None, "ended without saying how"
        shutdown = self.connection.context.config.shutdown
        ready = self.connection.phases.ready is not None
        timeout = shutdown.close_timeout if ready else shutdown.close_timeout_before_ready
        await self._websocket.close(close.code, close.reason, timeout=timeout)

    async def _call_close_hook(self) -> None:
        connection, hook = self.connection, self.connection.route.close_hook
        user = connection.user
        if hook is None or user is None or connection.phases.ready is None:
            return
        try:
            with (
                BoundConnection(connection.id, user.id),
                trio.fail_after(connection.context.config.handlers.timeout),
            ):
                await call(hook, connection.facade)
        except Exception as error:
            remains = without_departure(error, connection.id)
            if remains is not None:
                report_error(connection, "close_hook_failed", remains)
            elif may_log("close_hook_stopped", user=user.id):
                connection.log.warning("close_hook_stopped", reason="it sent to this connection")

    def _crash(self, error: Exception) -> None:
        report_error(self.connection, "connection_crashed", error)
        self.connection.fail(Refusal("internal_error"))

    # -------------------------------------------------------------------------- receiving

    @property
    def about_to_send(self) -> bool:
        """Whether the message loop is about to answer."""
        return self._dispatcher.about_to_answer

    def on_messages(self, messages: list[bytes]) -> None:
        """Handle a batch of messages, in order."""
        run = self._dispatcher.run_in_context
        if run is None:
            self._receive(messages)
        else:
            run(self._receive, messages)

    def on_error(self, code: str) -> None:
        """End the connection, because the client violated the protocol."""
        self.connection.fail(Refusal(code))

    def on_disconnect(self) -> None:
        """End the connection without an error, because the client has disconnected."""
        self._protocol.end()
        self.connection.flush()

    def _receive(self, messages: list[bytes]) -> None:
        protocol, dispatcher = self._protocol, self._dispatcher
        now, count = self._websocket.protocol.last_received, len(messages)
        charged = count > 1 and protocol.charge(count, sum(map(len, messages)), now)
        try:
            for data in messages:
                message = protocol.receive(data, now, charged=charged)
                if protocol.outgoing:
                    self.connection.flush()
                if type(message) is Message:
                    dispatcher.handle(message, len(data))
                elif message is not None:
                    self._handle(message, len(data))
                if protocol.close is not None:
                    break
        except Exception as error:
            self._crash(error)

    def _handle(self, message: object, size: int) -> None:
        if not isinstance(message, Auth):
            self._dispatcher.dispatch(message, size)
            return
        protocol = self._protocol
        credentials = Credentials(
            source="message", token=message.token, fields=protocol.auth_fields
        )
        if protocol.state is ServerState.VERIFYING:
            self._start_authentication(credentials)
        else:
            self.connection.start_soon(self._refresh, credentials)

    # -------------------------------------------------------------------------- authentication

    def _start_authentication(self, credentials: Credentials) -> None:
        connection = self.connection
        connection.phases.enter(Phase.AUTHENTICATING, trio.current_time())
        connection.token = fingerprint(credentials.token)
        self._slot.authenticating()
        connection.start_soon(self._authenticate, credentials)

    async def _authenticate(self, credentials: Credentials) -> None:
        """Verify the first token, send `ready`, and handle what arrived in the meantime."""
        connection, protocol = self.connection, self._protocol
        try:
            user = await verify(connection, credentials)
            if protocol.state is not ServerState.VERIFYING:
                return  # the connection has ended in the meantime
            if not self._slot.ready():
                raise Refusal("server_busy")
        except Refusal as refusal:
            connection.fail(refusal, None if protocol.auth is None else protocol.auth.id)
            return
        accept(connection, user, credentials)
        send_queue = self._websocket.send_queue
        position = send_queue.position
        for message in protocol.receive_held(trio.current_time()):
            self._handle(message, protocol.options.max_message_bytes_before_ready)
        connection.flush()
        send_queue.call_when_flushed(position, self._become_ready)

    def _become_ready(self) -> None:
        """Enter `Phase.READY`, because `ready` has been written to the transport.

        Until then the connection is treated as unauthenticated: a client that does not read its
        `ready` takes part in nothing.
        """
        connection = self.connection
        if connection.has_ended:
            return
        connection.phases.enter(Phase.READY, trio.current_time())
        try:
            self._on_ready(connection)
        except Exception as error:  # an observer's; whoever was sending must not pay for it
            self._crash(error)
        connection.finish_auth()

    async def _refresh(self, credentials: Credentials) -> None:
        if await refresh(self.connection, credentials):
            self._sleep.cancel()  # what is due next has changed
        self.connection.flush()

    # -------------------------------------------------------------------------- time

    async def _keep_time_and_deliver(self) -> None:
        """Keep time; meanwhile the route's mailbox delivers to the connection."""
        mailbox = self.connection.route.mailbox
        if mailbox is None:
            await self._keep_time()
            return
        recipient = MailboxRecipient(self.connection)
        mailbox.join(recipient)
        try:
            await self._keep_time()
        finally:
            mailbox.leave(recipient)

    async def _keep_time(self) -> None:
        """Send heartbeats, warn before the token expires, and close when it does; until the end.

        This is where the connection's own task waits. Another task for it would cost a tenth of an
        idle connection's memory.
        """
        protocol, connection = self._protocol, self.connection
        heartbeat = Heartbeat(connection)
        while protocol.close is None:
            deadline = math.inf if protocol.deadline is None else protocol.deadline
            with trio.CancelScope(deadline=min(heartbeat.due, deadline)) as self._sleep:
                await connection.ended.wait()
            heartbeat.beat()
            protocol.tick(trio.current_time(), connection.context.wall_clock())
            connection.flush()
