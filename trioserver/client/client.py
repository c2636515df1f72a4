"""A client: what a program asks, and the connections, one after another, that it is asked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Final

import attrs
import structlog
import trio

from protocol import ClientProtocol, Id
from protocol.messages import Event, Message, Ready
from trioserver.client.backoff import Retrying
from trioserver.client.close_reason import CLOSED, CloseReason
from trioserver.client.connection import Link
from trioserver.client.errors import ConnectionLost, RequestTimeout, error_of
from trioserver.client.options import Options
from trioserver.client.pending import Answer, Call, decode, optional
from trioserver.client.receive_buffer import Inbox
from trioserver.client.streams import Stream
from trioserver.client.subscriptions import Subscription, Subscriptions
from trioserver.client.url import Address

PUSHED_BYTES: Final = 1024 * 1024
"""Pushed messages that wait for `Client.messages`. Beyond it they are gone and counted: a program
that does not want them must not stop everything else."""

_log: Final = structlog.get_logger("trioserver.client")


class State(Enum):
    """Where a client stands."""

    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


@attrs.frozen
class Pushed:
    """A message of the application's that answers no request."""

    type: str
    data: Any
    id: Id | None = None
    """Of what a mailbox kept: the same when it comes twice, and what acknowledges it."""


class Messages:
    """``async for pushed in client.messages(): ...``: in order, over reconnects.

    A MiB waits; what comes beyond that is gone, and `Overflow` is raised in its place: iterate on
    for what came after. Raises `ConnectionLost` when the client has given up, and ends when the
    server has closed normally. What is pushed while there is no connection is not noticed here.
    """

    def __init__(self, inbox: Inbox[Message]) -> None:
        self._inbox = inbox

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Pushed:
        try:
            message = await self._inbox.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return Pushed(message.type, decode(message.data, Any), message.id)


class Client:
    """What `connect` gives. Everything that asks waits for READY first, and has a deadline: that of
    the call, or ``request_timeout``. Cancelling a call takes nothing back that has been sent.

    They raise `RequestTimeout`, a `trio.TooSlowError`; `ConnectionLost` when the connection ends
    before the answer, or the client has given up; and `RequestRefused` where the server says no.
    """

    def __init__(
        self,
        address: Address,
        options: Options,
        on_state: Callable[[State], object] | None,
    ) -> None:
        self.state = State.CONNECTING
        self.ready: Ready | None = None
        """The last `ready`: connection id, user, limits."""
        self.close_reason: CloseReason | None = None
        """How the last connection ended; while connecting, the last attempt."""
        self._address = address
        self._options = options
        self._on_state = on_state
        self._link: Link | None = None
        self._leaving = False
        self._changed = trio.Event()
        self._subscriptions = Subscriptions()
        self._pushed: Inbox[Message] = Inbox(max_bytes=PUSHED_BYTES)

    def __repr__(self) -> str:
        return f"<Client {self._address} {self.state.value}>"

    # -------------------------------------------------------------------------- asking

    async def request(
        self, type: str, data: Any = None, *, timeout: float | None = None, reply: Any = Any
    ) -> Any:
        """Ask, and wait for the answer, which is decoded as ``reply``.

        A request is never repeated: where it raises `ConnectionLost` or `RequestTimeout` it may
        have been done. Raises `msgspec.ValidationError` for an answer that does not fit.
        """
        answer = await self._call(
            type, lambda session: session.request(type, optional(data)), timeout
        )
        return decode(getattr(answer, "data", None), reply)

    def stream(
        self, type: str, data: Any = None, *, reply: Any = Any, timeout: float | None = None
    ) -> Stream:
        """Ask for an answer in chunks, each decoded as ``reply``; see `Stream`.

        ``timeout``: seconds for each chunk; None waits for as long as the connection lives.
        """
        return Stream(self, type, data, reply=reply, timeout=timeout)

    def subscribe(self, *topics: str, payload: Any = Any) -> Subscription:
        """Hear topics, 100 at most; the data of events is decoded as ``payload``."""
        return Subscription(self, topics, payload=payload)

    async def publish(self, topic: str, data: Any, *, timeout: float | None = None) -> None:
        """Publish, and wait until that is done."""
        await self._call("publish", lambda session: session.publish(topic, data), timeout)

    async def send(self, type: str, data: Any = None) -> None:
        """Send a message that wants no answer; returns when it is queued to be sent."""
        with self._deadline(type, None):
            (await self._link_with_room()).exchange.send(type, optional(data))

    async def ping(self, *, timeout: float | None = None) -> float:
        """Seconds until the server's `pong`, in which what was queued before is counted."""
        begun = trio.current_time()
        await self._call("ping", lambda session: session.ping(), timeout)
        return trio.current_time() - begun

    async def refresh(self, token: str, *, timeout: float | None = None) -> None:
        """Give the server a new token of the same user; returns when it has taken it.

        It is for this connection; for the next one it is the ``token`` of `connect` that counts.
        A token that is refused ends the connection: `ConnectionLost`.
        """
        with self._deadline("auth", timeout):
            link = await self._link_with_room()
            await link.exchange.refresh(token, self._options.heartbeat)

    def messages(self) -> Messages:
        """What the application pushes; all that ask for it take from the same inbox."""
        return Messages(self._pushed)

    async def wait_state(self, *states: State) -> State:
        """Wait until it stands in one of these; the deadline is the caller's."""
        await trio.lowlevel.checkpoint()
        while self.state not in states:
            await self._changed.wait()
        return self.state

    # -------------------------------------------------------------------------- how it asks

    async def _call(
        self,
        what: str,
        send: Callable[[ClientProtocol], Id],
        timeout: float | None = None,
        *,
        before: Callable[[], object] = lambda: None,
    ) -> Answer:
        with self._deadline(what, timeout):
            link = await self._link_with_room()
            before()
            call = Call()
            id = link.exchange.begin(send, call)
            try:
                return await call.wait()
            finally:
                link.exchange.forget(id)

    @contextmanager
    def _deadline(self, what: str, timeout: float | None) -> Iterator[None]:
        seconds = self._options.request_timeout if timeout is None else timeout
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise RequestTimeout(what, seconds)

    async def _link_with_room(self) -> Link:
        """A connection that is READY and has room to send. Raises `ConnectionLost`."""
        while True:
            await self.wait_state(State.READY, State.CLOSED)
            link = self._link
            if link is None:
                assert self.close_reason is not None
                raise ConnectionLost(self.close_reason)
            await link.exchange.outgoing.wait_room()
            if link is self._link and link.exchange.is_open:
                return link
            if link is self._link:  # on its way out: the next one, or none, is not far
                await self._changed.wait()

    # -------------------------------------------------------------------------- connecting

    async def _run(self) -> None:
        """One connection after another, until one ends for good."""
        options = self._options
        retrying = Retrying(
            backoff=options.backoff,
            reconnect=options.reconnect,
            max_attempts=options.max_attempts,
            can_refresh=options.can_refresh,
        )
        while True:
            link = Link(options, self._address, self._on_ready, self._on_pushed)
            self.close_reason = await link.run()
            self._link = None
            pause = _pause_after(link, retrying)
            if pause is None or self._leaving:
                self._close(self.close_reason)
                return
            _log.info("reconnecting", url=str(self._address), why=self.close_reason.code, s=pause)
            if self.state is State.READY:
                self._move(State.RECONNECTING)
            await trio.sleep(pause)

    def _close(self, reason: CloseReason = CLOSED) -> None:
        """No more connections; the first reason counts."""
        if self.state is not State.CLOSED:
            self.close_reason = reason
            self._link = None
            self._pushed.close(error_of(reason))
            self._subscriptions.close(reason)
            self._move(State.CLOSED)

    async def _leave(self) -> None:
        """Say goodbye to the server; returns within seconds, whatever it does."""
        if self._link is not None:
            self._leaving = True
            self._link.end(CLOSED)
            await self.wait_state(State.CLOSED)

    def _move(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = trio.Event()
        if self._on_state is not None:
            self._on_state(state)

    # -------------------------------------------------------------------------- what a link says

    def _on_ready(self, link: Link, ready: Ready) -> None:
        self.ready = ready
        self._link = link
        self._subscriptions.subscribe_again(link)
        self._move(State.READY)

    def _on_pushed(self, message: Message | Event, size: int) -> None:
        if isinstance(message, Event):
            self._subscriptions.hear(message, size)
        else:
            self._pushed.put(message, size)


def _pause_after(link: Link, retrying: Retrying) -> float | None:
    assert link.reason is not None
    now = trio.current_time()
    return retrying.pause(
        link.reason,
        ready_for=None if link.ready_at is None else now - link.ready_at,
        come_back_in=None if link.come_back_at is None else max(0.0, link.come_back_at - now),
    )
