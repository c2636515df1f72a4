"""A process's clients together: they come up, are told what happens to them, and go."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import trio

from trioserver.client.backoff import Backoff
from trioserver.client.close_reason import CloseReason
from trioserver.load.histogram import count
from trioserver.load.pacing import clock
from trioserver.load.plan import Plan
from trioserver.load.recorder import Tally, name_of
from trioserver.load.requests import Requests
from trioserver.load.simulated_client import Client, State, reason_of
from trioserver.load.sockets import Sockets
from trioserver.load.tokens import NoToken, TokenSource
from trioserver.load.transport import Transport
from trioserver.load.wire import Upgrade

_SUBSCRIBE_TIMEOUT: Final = 10.0

_LEAVE_TIMEOUT: Final = 2.0
"""For all closing handshakes at the end; who has not finished then is dropped."""

_BACKOFF: Final = Backoff(first=0.2, maximum=2.0)
"""Short: what is measured is how soon all are ready."""


class Crowd:
    """All clients of this process. `run` has to run: it reads their sockets."""

    def __init__(self, plan: Plan, tally: Tally, sockets: Sockets | None = None) -> None:
        self._plan = plan
        self._tally = tally
        self._tokens = TokenSource(plan.tokens)
        self._requests = Requests(plan)
        self._tls = _tls_context(plan)
        self._sockets = sockets or Sockets()
        self._nursery: trio.Nursery | None = None
        self._subscribing: dict[Client, trio.Event] = {}
        self._expiring: dict[Client, float] = {}
        self.slow: set[Client] = set()
        self.closed_loop = False
        """Whether each answer is followed by the client's next request."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._sockets.run)
            task_status.started()
            await trio.sleep_forever()

    def make(self, numbers: Iterable[int]) -> list[Client]:
        """Clients with these numbers."""
        return [Client(number, self, self._requests) for number in numbers]

    # -------------------------------------------------------------------------- coming up

    async def prepare(self, clients: Sequence[Client]) -> None:
        """Give each a fresh token, before any clock is looked at. Raises `NoToken`."""
        failures: list[NoToken] = []

        async def one(client: Client) -> None:
            try:
                client.token = await self._tokens.make(client.number)
            except NoToken as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(one, client)
        if failures:
            raise failures[0]

    async def bring_up(self, client: Client, due: float, took: list[float]) -> None:
        """Make a client READY and, where that is its part, subscribed; counts it where that fails.

        The time from ``due`` to READY is put into ``took``. A server that says "try again later" is
        obeyed, as long as the plan's time lasts.
        """
        reason: CloseReason | None = None
        with trio.move_on_after(due + self._plan.ready_timeout - clock()) as scope:
            reason = await self._until_ready(client)
        if scope.cancelled_caught:
            reason = CloseReason.local("Not ready in time.", "ready_timeout")
        if reason is not None:
            client.drop()
            self._tally.counts.not_ready += 1
            count(self._tally.counts.failures, name_of(reason))
            return
        took.append(client.ready_at - due)
        if self._plan.topic is not None and client.number >= self._plan.publishers:
            await self._subscribe(client, self._plan.topic)

    async def _until_ready(self, client: Client) -> CloseReason | None:
        """Why it does not come to be; None when it is READY."""
        attempt = 0
        while True:
            await self._attempt(client)
            if client.came is None:
                return None
            reason = client.came
            if reason.retry != "backoff" or not self._plan.retry:
                return reason
            count(self._tally.counts.retries, name_of(reason))
            await trio.sleep((reason.retry_after or 0.0) + _BACKOFF.delay(attempt))
            attempt += 1

    async def _attempt(self, client: Client) -> None:
        """One connection, until it is READY or over."""
        client.drop()
        try:
            transport = await Transport.open(
                (self._plan.family, tuple(self._plan.sockaddr)),
                partial(self.blocked, client),
                small_buffer=client in self.slow,
            )
        except OSError as error:
            client.came = reason_of(error)
            return
        address = self._plan.address(client.number)
        client.begin(transport)
        try:
            if self._tls is not None:
                transport.start_tls(self._tls, address.host)
            client.upgrade(Upgrade(address))
        except OSError as error:
            client.fail(error)
        if not transport.closed:
            self._sockets.watch(client, transport)
            await client.settled.wait()

    def read(self, client: Client) -> None:
        """Read from a client that nobody has read from since it was ready."""
        if client.transport is not None and client.transport.unwatch is None:
            self._sockets.watch(client, client.transport)

    async def _subscribe(self, client: Client, topic: str) -> None:
        done = self._subscribing[client] = trio.Event()
        client.subscribe(topic)
        with trio.move_on_after(_SUBSCRIBE_TIMEOUT) as waiting:
            await done.wait()
        if waiting.cancelled_caught:
            count(self._tally.counts.errors, "subscribe_timeout")
        del self._subscribing[client]

    # -------------------------------------------------------------------------- going

    def drop(self, clients: Iterable[Client]) -> None:
        """End their connections without a word, as a cut cable does."""
        for client in clients:
            if client.state is State.READY:
                self._tally.counts.ready -= 1
            client.drop()

    async def leave(self, clients: Sequence[Client]) -> None:
        """Close them normally, all within two seconds; cancelled, drop them."""
        try:
            with trio.move_on_after(_LEAVE_TIMEOUT):
                for client in clients:
                    client.leave()
                # Thousands end in any order: a look now and then costs less than an event each.
                while any(client.state is State.CLOSING for client in clients):  # noqa: ASYNC110
                    await trio.sleep(0.02)
        finally:
            for client in clients:
                client.drop()

    # -------------------------------------------------------------------------- told by clients

    def opened(self, client: Client, now: float) -> None:
        """It is READY."""
        if client not in self.slow:
            self._tally.counts.ready += 1

    def subscribed(self, client: Client) -> None:
        """Its subscription was acknowledged."""
        if client in self._subscribing:
            self._subscribing[client].set()

    def not_subscribed(self, client: Client) -> None:
        """Its subscription was refused, which is counted like any other refusal."""
        self.subscribed(client)

    def answered(self, client: Client, dues: list[float], now: float) -> None:
        """Requests have their answers."""
        self._tally.answered(dues, now)
        if self.closed_loop:
            self._ask_again(client, len(dues), now)

    def _ask_again(self, client: Client, count: int, now: float) -> None:
        asked = client.ask(now, count)
        self._tally.counts.sent += asked
        if asked < count and client.state is State.READY:
            self._tally.counts.not_sent += count - asked

    def refused(self, client: Client, code: str, asked: bool, now: float) -> None:
        """An `error` came that does not end the connection; ``asked``: in answer to a request."""
        count(self._tally.counts.errors, code)
        if asked and self.closed_loop:
            self._ask_again(client, 1, now)

    def event(self, client: Client, topic: str, offset: int, payload: bytes, now: float) -> None:
        """An event came; offsets tell whether some did not."""
        if client in self.slow:
            return  # it would say how slow the reader is
        heard = client.heard.get(topic)
        client.heard[topic] = offset
        if heard is not None and offset > heard + 1:
            self._tally.counts.missed += offset - heard - 1
        self._tally.delivered(payload, now)

    def expiring(self, client: Client) -> None:
        """Its token ends soon: have another one, where there is one to be had."""
        if self._tokens.renews and self._nursery is not None and client not in self._expiring:
            self._expiring[client] = clock()
            self._nursery.start_soon(self._refresh, client)

    async def _refresh(self, client: Client) -> None:
        try:
            token = await self._tokens.make(client.number)
        except NoToken:
            self._expiring.pop(client, None)
            count(self._tally.counts.errors, "no_token")
        else:
            if token is not None:
                client.refresh(token)

    def refreshed(self, client: Client, now: float) -> None:
        """The new token was accepted."""
        since = self._expiring.pop(client, None)
        if since is not None:
            self._tally.counts.refreshed += 1
            self._tally.measures["refresh"].recent.append(now - since)

    def ended(self, client: Client, reason: CloseReason) -> None:
        """It was READY, and the server or the network has ended it."""
        self._expiring.pop(client, None)
        if client in self._subscribing:
            self._subscribing[client].set()
        if client in self.slow:
            self._tally.counts.slow_readers_open -= 1
            count(self._tally.counts.slow_closes, name_of(reason))
        else:
            self._tally.counts.ready -= 1
            self._tally.ended(reason, len(client.pending))

    def blocked(self, client: Client) -> None:
        """It has something to send that its socket does not take now."""
        self._sockets.blocked(client)


def _tls_context(plan: Plan) -> ssl.SSLContext | None:
    if not plan.address(0).secure:
        return None
    context = ssl.create_default_context(cafile=plan.cafile)
    if plan.insecure_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
