"""`ClientPool`: connects the clients of one process, reacts to their events, and closes them."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import trio

from trioserver.client.backoff import Backoff
from trioserver.client.close_reason import CloseReason
from trioserver.load.counts import count
from trioserver.load.network_errors import reason_from_error
from trioserver.load.pacing import clock
from trioserver.load.plan import Plan
from trioserver.load.recorder import Recorder, name_of
from trioserver.load.requests import Requests
from trioserver.load.simulated_client import SimulatedClient, State
from trioserver.load.sockets import Sockets
from trioserver.load.tokens import TokenError, TokenSource
from trioserver.load.transport import Transport
from trioserver.load.wire import OpeningHandshake

_SUBSCRIBE_TIMEOUT: Final = 10.0

_LEAVE_TIMEOUT: Final = 2.0
"""Seconds for all closing handshakes at the end. Connections that are still open are dropped."""

_BACKOFF: Final = Backoff(first=0.2, maximum=2.0)
"""Short pauses, because the time until all clients are ready is measured."""


class ClientPool:
    """All clients of this process; a `ClientListener`. `run` must run: it reads their sockets."""

    def __init__(self, plan: Plan, recorder: Recorder, sockets: Sockets | None = None) -> None:
        self._plan = plan
        self._recorder = recorder
        self._tokens = TokenSource(plan.tokens)
        self._requests = Requests(plan)
        self._tls = _tls_context(plan)
        self._sockets = sockets or Sockets()
        self._nursery: trio.Nursery | None = None
        self._subscribing: dict[SimulatedClient, trio.Event] = {}
        self._expiring: dict[SimulatedClient, float] = {}
        self.slow: set[SimulatedClient] = set()
        self.closed_loop = False
        """Whether each client sends its next request when it receives an answer."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the sockets until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._sockets.run)
            task_status.started()
            await trio.sleep_forever()

    def make(self, numbers: Iterable[int]) -> list[SimulatedClient]:
        """Make clients with these numbers."""
        return [SimulatedClient(number, self, self._requests) for number in numbers]

    # -------------------------------------------------------------------------- coming up

    async def prepare(self, clients: Sequence[SimulatedClient]) -> None:
        """Give each client a new token, before time is measured. Raises `TokenError`."""
        failures: list[TokenError] = []

        async def one(client: SimulatedClient) -> None:
            try:
                client.token = await self._tokens.make(client.number)
            except TokenError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(one, client)
        if failures:
            raise failures[0]

    async def bring_up(self, client: SimulatedClient, due: float, took: list[float]) -> None:
        """Connect a client until it is READY and, if it is a subscriber, subscribed.

        Appends the time from ``due`` to READY to ``took``, or counts the failure. If the server
        advises to retry, it retries within the plan's ``ready_timeout``.
        """
        reason: CloseReason | None = None
        with trio.move_on_after(due + self._plan.ready_timeout - clock()) as scope:
            reason = await self._until_ready(client)
        if scope.cancelled_caught:
            reason = CloseReason.local("Not ready in time.", "ready_timeout")
        if reason is not None:
            client.drop()
            self._recorder.counts.not_ready += 1
            count(self._recorder.counts.failures, name_of(reason))
            return
        took.append(client.ready_at - due)
        if self._plan.topic is not None and client.number >= self._plan.publishers:
            await self._subscribe(client, self._plan.topic)

    async def _until_ready(self, client: SimulatedClient) -> CloseReason | None:
        """Connect until READY. Returns None then, or the reason why it failed."""
        attempt = 0
        while True:
            await self._attempt(client)
            if client.close_reason is None:
                return None
            reason = client.close_reason
            if reason.retry != "backoff" or not self._plan.retry:
                return reason
            count(self._recorder.counts.retries, name_of(reason))
            await trio.sleep((reason.retry_after or 0.0) + _BACKOFF.delay(attempt))
            attempt += 1

    async def _attempt(self, client: SimulatedClient) -> None:
        """Open one connection; returns when it is READY or has ended."""
        client.drop()
        try:
            transport = await Transport.open(
                (self._plan.family, tuple(self._plan.sockaddr)),
                partial(self.blocked, client),
                small_buffer=client in self.slow,
            )
        except OSError as error:
            client.close_reason = reason_from_error(error)
            return
        url = self._plan.url_of(client.number)
        client.begin(transport)
        try:
            if self._tls is not None:
                transport.start_tls(self._tls, url.host)
            client.upgrade(OpeningHandshake(url))
        except OSError as error:
            client.fail(error)
        if not transport.closed:
            self._sockets.watch(client, transport)
            await client.opened_or_ended.wait()

    def read(self, client: SimulatedClient) -> None:
        """Read from a slow client, whose socket is not watched."""
        if client.transport is not None and client.transport.unwatch is None:
            self._sockets.watch(client, client.transport)

    async def _subscribe(self, client: SimulatedClient, topic: str) -> None:
        done = self._subscribing[client] = trio.Event()
        client.subscribe(topic)
        with trio.move_on_after(_SUBSCRIBE_TIMEOUT) as waiting:
            await done.wait()
        if waiting.cancelled_caught:
            count(self._recorder.counts.errors, "subscribe_timeout")
        del self._subscribing[client]

    # -------------------------------------------------------------------------- going

    def drop(self, clients: Iterable[SimulatedClient]) -> None:
        """Close their connections without a Close frame, as a network failure does."""
        for client in clients:
            if client.state is State.READY:
                self._recorder.counts.ready -= 1
            client.drop()

    async def leave(self, clients: Sequence[SimulatedClient]) -> None:
        """Close them normally, within two seconds. When cancelled, drop them."""
        try:
            with trio.move_on_after(_LEAVE_TIMEOUT):
                for client in clients:
                    client.leave()
                # There are thousands: polling costs less than an event for each.
                while any(client.state is State.CLOSING for client in clients):  # noqa: ASYNC110
                    await trio.sleep(0.02)
        finally:
            for client in clients:
                client.drop()

    # -------------------------------------------------------------------------- events of clients

    def opened(self, client: SimulatedClient, now: float) -> None:
        """It is READY."""
        if client not in self.slow:
            self._recorder.counts.ready += 1

    def subscribed(self, client: SimulatedClient) -> None:
        """Its subscription was acknowledged."""
        if client in self._subscribing:
            self._subscribing[client].set()

    def not_subscribed(self, client: SimulatedClient) -> None:
        """Its subscription was rejected; `rejected` counts that."""
        self.subscribed(client)

    def answered(self, client: SimulatedClient, dues: list[float], now: float) -> None:
        """Its requests were answered."""
        self._recorder.answered(dues, now)
        if self.closed_loop:
            self._ask_again(client, len(dues), now)

    def _ask_again(self, client: SimulatedClient, count: int, now: float) -> None:
        asked = client.ask(now, count)
        self._recorder.counts.sent += asked
        if asked < count and client.state is State.READY:
            self._recorder.counts.not_sent += count - asked

    def rejected(self, client: SimulatedClient, code: str, asked: bool, now: float) -> None:
        """It received an `error` that is not fatal; ``asked``: as the answer to a request."""
        count(self._recorder.counts.errors, code)
        if asked and self.closed_loop:
            self._ask_again(client, 1, now)

    def event(
        self, client: SimulatedClient, topic: str, offset: int, payload: bytes, now: float
    ) -> None:
        """It received an event. Gaps in the offsets are counted as missed events."""
        if client in self.slow:
            return  # its latency would be that of the slow reader
        last = client.last_offsets.get(topic)
        client.last_offsets[topic] = offset
        if last is not None and offset > last + 1:
            self._recorder.counts.missed += offset - last - 1
        self._recorder.delivered(payload, now)

    def expiring(self, client: SimulatedClient) -> None:
        """Its token expires soon: send a new one, if there can be one."""
        if self._tokens.renews and self._nursery is not None and client not in self._expiring:
            self._expiring[client] = clock()
            self._nursery.start_soon(self._refresh, client)

    async def _refresh(self, client: SimulatedClient) -> None:
        try:
            token = await self._tokens.make(client.number)
        except TokenError:
            self._expiring.pop(client, None)
            count(self._recorder.counts.errors, "no_token")
        else:
            if token is not None:
                client.refresh(token)

    def refreshed(self, client: SimulatedClient, now: float) -> None:
        """The new token was accepted."""
        since = self._expiring.pop(client, None)
        if since is not None:
            self._recorder.counts.refreshed += 1
            self._recorder.latencies["refresh"].recent.append(now - since)

    def ended(self, client: SimulatedClient, reason: CloseReason) -> None:
        """Its connection was READY, and was ended by the server or the network."""
        self._expiring.pop(client, None)
        if client in self._subscribing:
            self._subscribing[client].set()
        if client in self.slow:
            self._recorder.counts.slow_readers_open -= 1
            count(self._recorder.counts.slow_closes, name_of(reason))
        else:
            self._recorder.counts.ready -= 1
            self._recorder.ended(reason, len(client.pending))

    def blocked(self, client: SimulatedClient) -> None:
        """Its socket is not writable now, and messages wait."""
        self._sockets.blocked(client)


def _tls_context(plan: Plan) -> ssl.SSLContext | None:
    if not plan.url_of(0).secure:
        return None
    context = ssl.create_default_context(cafile=plan.cafile)
    if plan.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
