"""`Client`: requests, streams, subscriptions and pushed messages, across reconnects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from protocol import ClientProtocol, Id
from protocol.messages import Message, Ready
from trioserver.client.close_reason import CloseReason
from trioserver.client.errors import RequestTimeoutError
from trioserver.client.options import Options
from trioserver.client.pending import Answer, decode, optional
from trioserver.client.receive_buffer import ReceiveBuffer
from trioserver.client.reconnecting import Reconnector, State
from trioserver.client.requests import RequestTracker
from trioserver.client.streams import Stream
from trioserver.client.subscriptions import Subscription


@attrs.frozen
class PushMessage:
    """A message that the application sent without a request.

    ``id`` is set for messages that a mailbox stored. It is the same if the message is delivered
    again, and it is used to acknowledge the message.
    """

    type: str
    data: Any
    id: Id | None = None


class Messages:
    """``async for message in client.messages(): ...``: in order, across reconnects.

    Up to 1 MiB of messages wait. Further ones are dropped, and `BufferOverflowError` is raised in
    their place; iteration can continue after it. Raises `ConnectionLostError` if the client has
    given up, and ends when the server has closed normally. Messages that are sent while there is no
    connection are missed without notice.
    """

    def __init__(self, buffer: ReceiveBuffer[Message]) -> None:
        self._buffer = buffer

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> PushMessage:
        try:
            message = await self._buffer.get()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return PushMessage(message.type, decode(message.data, Any), message.id)


class Client:
    """What `connect` yields.

    Every method that sends waits for READY first. Its deadline is its ``timeout``, or
    ``request_timeout`` of `connect`. Cancelling a call does not undo what was sent.

    The methods raise `RequestTimeoutError`, a `trio.TooSlowError`; `ConnectionLostError` if the
    connection ends before the answer, or the client has given up; and `RequestRejectedError` if
    the server answers with an error.
    """

    def __init__(self, reconnector: Reconnector, options: Options) -> None:
        self._reconnector = reconnector
        self._options = options

    def __repr__(self) -> str:
        return f"<Client {self._reconnector.url} {self.state.value}>"

    @property
    def state(self) -> State:
        """The current state; see also `wait_state`."""
        return self._reconnector.state

    @property
    def ready(self) -> Ready | None:
        """The last `ready` message: connection id, user, limits."""
        return self._reconnector.ready

    @property
    def close_reason(self) -> CloseReason | None:
        """How the last connection ended; while connecting, how the last attempt ended."""
        return self._reconnector.close_reason

    async def wait_state(self, *states: State) -> State:
        """Wait until the state is one of these. It has no deadline."""
        return await self._reconnector.wait_state(*states)

    # -------------------------------------------------------------------------- sending

    async def request(
        self, type: str, data: Any = None, *, timeout: float | None = None, reply: Any = Any
    ) -> Any:
        """Send a request and wait for the answer, which is decoded as ``reply``.

        A request is sent only once: after `ConnectionLostError` or `RequestTimeoutError` it may
        have been executed. Raises `msgspec.ValidationError` for an answer that does not match
        ``reply``.
        """
        answer = await self._request(
            type, lambda protocol: protocol.request(type, optional(data)), timeout
        )
        return decode(getattr(answer, "data", None), reply)

    def stream(
        self, type: str, data: Any = None, *, reply: Any = Any, timeout: float | None = None
    ) -> Stream:
        """Send a request that is answered in chunks, each decoded as ``reply``; see `Stream`.

        ``timeout``: seconds for each chunk; None waits for as long as the connection lives.
        """
        return Stream(self._wait_ready, type, data, reply=reply, timeout=timeout)

    def subscribe(self, *topics: str, payload: Any = Any) -> Subscription:
        """Subscribe to at most 100 topics; the data of events is decoded as ``payload``."""
        return Subscription(self._request, self._reconnector.subscribers, topics, payload=payload)

    async def publish(self, topic: str, data: Any, *, timeout: float | None = None) -> None:
        """Publish an event, and wait until the server has acknowledged it."""
        await self._request("publish", lambda protocol: protocol.publish(topic, data), timeout)

    async def send(self, type: str, data: Any = None) -> None:
        """Send a message that needs no answer. Returns when it is queued for sending."""
        with self._deadline(type, None):
            (await self._reconnector.wait_ready()).send(type, optional(data))

    async def ping(self, *, timeout: float | None = None) -> float:
        """Seconds until the server's `pong`, including the time for what was queued before."""
        begun = trio.current_time()
        await self._request("ping", lambda protocol: protocol.ping(), timeout)
        return trio.current_time() - begun

    async def refresh(self, token: str, *, timeout: float | None = None) -> None:
        """Send a new token of the same user. Returns when the server has accepted it.

        It is used for this connection only; later connections use the ``token`` of `connect`. A
        token that is rejected ends the connection with `ConnectionLostError`.
        """
        with self._deadline("auth", timeout):
            requests = await self._reconnector.wait_ready()
            await requests.refresh(token, self._options.heartbeat)

    def messages(self) -> Messages:
        """Iterate over pushed messages. All iterators share one buffer."""
        return Messages(self._reconnector.pushed)

    async def _request(
        self,
        name: str,
        send: Callable[[ClientProtocol], Id],
        timeout: float | None = None,
        *,
        before: Callable[[], object] = lambda: None,
    ) -> Answer:
        with self._deadline(name, timeout):
            requests = await self._reconnector.wait_ready()
            before()
            return await requests.request(send)

    async def _wait_ready(self, name: str) -> RequestTracker:
        with self._deadline(name, None):
            return await self._reconnector.wait_ready()

    @contextmanager
    def _deadline(self, name: str, timeout: float | None) -> Iterator[None]:
        seconds = self._options.request_timeout if timeout is None else timeout
        with trio.move_on_after(seconds) as scope:
            yield
        if scope.cancelled_caught:
            raise RequestTimeoutError(name, seconds)
