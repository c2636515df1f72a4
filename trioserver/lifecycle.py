"""The life of one connection, from the judged handshake to the log line at its end.

Two nurseries, and their nesting is the order of the end: the outer one holds what moves bytes,
the inner one all that works on their behalf. The inner one is cancelled first, then the peer is
told and the WebSocket closed, then the outer one ends. Whatever is raised stops here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

import attrs
import trio

from protocol import Refusal, ServerState
from protocol.messages import Auth
from trioserver.auth import Credentials, User
from trioserver.config import Config
from trioserver.connection import Connection
from trioserver.dispatch import Dispatcher
from trioserver.handlers import call
from trioserver.heartbeat import heartbeat
from trioserver.observer import Attempt, Observer
from trioserver.timings import Timings
from trioserver.verification import verify
from trioserver.websocket.handshake import Head


class Lifecycle:
    """Runs a `Connection`; it is also the `Receiver` of its WebSocket's messages.

    ``on_ready`` is called at the moment it becomes READY, before `ready` is sent.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        config: Config,
        observer: Observer,
        on_ready: Callable[[Connection], None],
    ) -> None:
        self.connection = connection
        self._config = config
        self._observer = observer
        self._on_ready = on_ready
        self._session = connection._session
        self._websocket = connection._websocket
        self._dispatcher = Dispatcher(connection, limits=config.limits, handlers=config.handlers)
        self._timings = Timings(begun=trio.current_time())
        self._deadline_moved = trio.Event()
        self._was_ready = False

    # -------------------------------------------------------------------------- the whole life

    async def run(self, head: Head, refusal: Refusal | None = None) -> None:
        """Serve the connection to its end; with ``refusal``, only tell it why not.

        Raises nothing but `trio.Cancelled`.
        """
        try:
            async with trio.open_nursery() as io:
                if await self._accept(io, head):
                    await self._live(io, refusal, self._query_token(head))
                    await self._close()
                io.cancel_scope.cancel()
        except* Exception as errors:
            self._crashed(errors)
        finally:
            self.connection._release()
            await self._closed()

    async def _accept(self, io: trio.Nursery, head: Head) -> bool:
        with trio.move_on_after(self._config.auth.timeout):
            try:
                await self._websocket.accept(io, head)
            except trio.BrokenResourceError:
                return False
            self._timings.accepted = trio.current_time()
        return self._timings.accepted is not None

    def _query_token(self, head: Head) -> str | None:
        return head.query.get("token") if self.connection.route.allow_query_token else None

    async def _live(self, io: trio.Nursery, refusal: Refusal | None, token: str | None) -> None:
        connection = self.connection
        try:
            async with trio.open_nursery() as work:
                connection._nursery = work
                if refusal is None:
                    self._session.start(token=token)
                    if token is not None:
                        self._verify_first(Credentials(source="query", token=token))
                connection._flush()
                self._websocket.start(io, self)
                if refusal is not None:
                    connection._fail(refusal)
                await self._until_settled()
                self._settled()
                if self._session.is_ready:
                    self._was_ready = True
                    work.start_soon(heartbeat, connection, self._config.heartbeat)
                    work.start_soon(self._dispatcher.run)
                    work.start_soon(self._watch_expiry)
                    if connection.route._mailbox is not None:
                        work.start_soon(connection.route._mailbox.serve, connection)
                await connection._ended.wait()
                work.cancel_scope.cancel()
        except* Exception as errors:
            self._crashed(errors)
            connection._fail(Refusal("internal_error"))
        finally:
            connection._nursery = None

    async def _until_settled(self) -> None:
        """One scope over everything before READY: receiving, verifying, and sending the answer."""
        deadline = self._session.deadline
        assert deadline is not None, "every session starts with a deadline"
        with trio.CancelScope(deadline=deadline) as scope:
            await self.connection._settled.wait()
            if self._session.is_ready:
                await self._websocket.outbox.wait_below(0)
        if scope.cancelled_caught:
            self.connection._fail(Refusal("auth_timeout"))

    def _settled(self) -> None:
        """Tell how the first authentication ended."""
        begun, close = self._timings.accepted, self._session.close
        assert begun is not None, "settled before the handshake was accepted"
        outcome = "ready"
        if self._timings.ready is None:
            outcome = close.reason if close and close.reason else "peer_left"
        self._attempted(outcome, begun)

    def _attempted(self, outcome: str, begun: float, *, refresh: bool = False) -> None:
        duration = trio.current_time() - begun
        attempt = Attempt(outcome=outcome, duration=duration, refresh=refresh)
        self._observer.attempted(self.connection, attempt)

    async def _close(self) -> None:
        """The reason is queued already; now the Close frame, and what the peer says to it."""
        close = self._session.close
        assert close is not None, "ended without saying how"
        self._timings.ended = trio.current_time()
        shutdown = self._config.shutdown
        ready = self._was_ready
        timeout = shutdown.close_timeout if ready else shutdown.close_timeout_before_ready
        await self._websocket.close(close.code, close.reason, timeout=timeout)

    # -------------------------------------------------------------------------- what arrives

    def received(self, messages: list[bytes]) -> None:
        """A batch of messages, in order."""
        connection, session = self.connection, self._session
        now = trio.current_time()
        try:
            for data in messages:
                self._receive(data, now)
                if session.close is not None:
                    break
        except Exception as error:
            self._crashed(error)
            connection._fail(Refusal("internal_error"))

    def _receive(self, data: bytes, now: float) -> None:
        message = self._session.receive(data, now)
        if self._session.outgoing:
            self.connection._flush()
        if message is not None:
            self._handle(message)

    def _handle(self, message: object) -> None:
        if not isinstance(message, Auth):
            self._dispatcher.dispatch(message)
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
        self._timings.auth_received = trio.current_time()
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
        now = trio.current_time()
        session.admit(
            now=now,
            wall=connection._wall_clock(),
            connection_id=connection.id,
            user={**user.public, "id": user.id},
            resource=connection.resource,
            expires_at=user.expires_at,
        )
        connection._acknowledges = credentials.fields.get("mailbox") == "ack"
        self._websocket.max_message_bytes = session.max_message_bytes
        self._on_ready(connection)
        self._timings.ready = now
        connection._flush()
        for message in session.receive_held(now):
            self._handle(message)
        connection._flush()
        connection._settled.set()

    async def _refresh(self, credentials: Credentials) -> None:
        """A new token on the same connection: the same user, and ownership verified again."""
        session, begun = self._session, trio.current_time()
        try:
            with trio.move_on_after(self._config.auth.timeout) as scope:
                user = await self._verify(credentials)
            if scope.cancelled_caught:
                raise Refusal("unavailable")
        except Refusal as refusal:
            if session.state is ServerState.REFRESHING:
                self._refuse_refresh(refusal)
                self._attempted(refusal.code, begun, refresh=True)
        else:
            if session.state is ServerState.REFRESHING:
                self.connection._user = user
                now, wall = trio.current_time(), self.connection._wall_clock()
                session.refresh(now=now, wall=wall, expires_at=user.expires_at)
                self._deadline_moved.set()
                self._attempted("refreshed", begun, refresh=True)
        self.connection._flush()

    def _refuse_refresh(self, refusal: Refusal) -> None:
        """What is not the client's fault leaves it with the token it has."""
        if refusal.code in ("unavailable", "internal_error"):
            self._session.keep(refusal, trio.current_time())
        else:
            auth = self._session.auth
            self._session.fail(refusal, None if auth is None else auth.id)

    async def _verify(self, credentials: Credentials) -> User:
        return await verify(
            self.connection,
            credentials,
            ownership_timeout=self._config.auth.ownership_timeout,
            timings=self._timings,
        )

    # -------------------------------------------------------------------------- time

    async def _watch_expiry(self) -> None:
        """Warn of the token's end, and end with it; a refresh moves both."""
        session = self._session
        while True:
            deadline = session.deadline
            self._deadline_moved = trio.Event()
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._deadline_moved.wait()
            session.tick(trio.current_time(), self.connection._wall_clock())
            self.connection._flush()

    # -------------------------------------------------------------------------- the end

    def _crashed(self, error: Exception) -> None:
        self._log_failure("connection_crashed", error)

    def _log_failure(self, event: str, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self.connection.log.error(event, traceback=text)

    async def _closed(self) -> None:
        """One line with the whole story, then the application's hook."""
        connection, websocket = self.connection, self._websocket
        now = trio.current_time()
        close, peer = self._session.close, websocket.peer_close
        statistics = connection.statistics()
        code = close.code if close and close.reason else peer.code if peer else 1006
        reason = close.reason if close and close.reason else "peer left"
        self._observer.closed(connection, code, reason, self._timings)
        connection.log.info(
            "connection_closed",
            path=connection.request.path,
            remote=connection.request.remote,
            code=code,
            reason=reason,
            duration_ms=round((now - self._timings.begun) * 1000),
            **self._timings.phases(now),
            **attrs.asdict(statistics),
        )
        hook = connection.route.close_hook
        if not self._was_ready or hook is None:
            return
        try:
            with trio.fail_after(self._config.handlers.timeout):
                await call(hook, connection)
        except Exception as error:
            self._log_failure("close_hook_failed", error)
