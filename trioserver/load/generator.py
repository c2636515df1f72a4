"""`Generator`: generates the load of one process, phase by phase.

A phase starts at the same time in all processes: the barrier tells when.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from trioserver.load.client_pool import ClientPool
from trioserver.load.histogram import LatencyHistogram
from trioserver.load.pacing import Pacer, clock
from trioserver.load.plan import Plan
from trioserver.load.recorder import Recorder
from trioserver.load.simulated_client import SimulatedClient, State
from trioserver.load.sockets import Sockets

Barrier: TypeAlias = Callable[[str], Awaitable[float]]
"""Waits until all processes have reached the phase of this name. Returns when it starts."""

GRACE: Final = 5.0
"""Seconds for the last answers. Requests without one are counted as unanswered."""

_SPIN: Final = 0.001
"""Seconds. Trio wakes up to a millisecond late, which is many times longer than an answer takes.
Therefore the last millisecond before a request is due is spent polling the sockets."""

_BATCH: Final = 256
"""Requests, or connections, between two polls of the sockets."""

_TICK: Final = 0.05
_SETTLE: Final = 0.05
_SLOW_TICK: Final = 0.05

_READING: Final = 2.0
"""Seconds for the slow readers to read everything at the end."""

_SLOW_BATCH: Final = 5
"""Requests of a slow reader in each tick: 100 per second, which is below usual rate limits."""

_PAUSE_AFTER_STORM: Final = 0.2


class Generator:
    """Runs one process's share of a plan. ``recorder`` has the results so far."""

    def __init__(self, plan: Plan, index: int = 0, *, sockets: Sockets | None = None) -> None:
        self.recorder = Recorder()
        self._plan = plan
        self._share = share = plan.share(index)
        self._pool = ClientPool(plan, self.recorder, sockets)
        self._clients = self._pool.make(range(share.first, share.first + share.clients))
        self._senders = self._clients[: share.senders]
        first_slow = share.first_slow
        self._slow = self._pool.make(range(first_slow, first_slow + share.slow_readers))
        self._pool.slow = set(self._slow)
        self._turn = 0
        self.recorder.counts.clients = share.clients
        self.recorder.counts.slow_readers = share.slow_readers

    async def run(self, barrier: Barrier) -> None:
        """Run all phases. When cancelled, it drops its clients, and the results remain.

        Raises `trioserver.load.tokens.TokenError`.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._pool.run)
            try:
                await self._phases(barrier, nursery)
                await self._read_slow()
                await self._pool.leave(self._clients)
            finally:
                self._pool.closed_loop = False
                self._pool.drop(self._clients)
                for client in self._slow:
                    client.drop()
                self.recorder.end_second()
            nursery.cancel_scope.cancel()

    async def _phases(self, barrier: Barrier, nursery: trio.Nursery) -> None:
        await self._pool.prepare([*self._clients, *self._slow])
        start = await barrier("connect")
        nursery.start_soon(self._keep_time, start)
        rate = self._share.connect_rate
        await self._connect(self._clients, start, rate, self.recorder.latencies["ready"])
        if self._slow:
            await self._bring_up_slow()
            nursery.start_soon(self._watch_slow)
        await self._load(await barrier("load"))
        for _ in range(self._plan.storms):
            await self._storm(barrier)

    async def _keep_time(self, start: float) -> None:
        """Record one `Second` after the other, from the start on."""
        while True:
            await trio.sleep(_TICK)
            self.recorder.flush()
            if clock() >= start + 1.0 + len(self.recorder.seconds):
                self.recorder.end_second()

    # -------------------------------------------------------------------------- connecting

    async def _connect(
        self,
        clients: list[SimulatedClient],
        start: float,
        rate: float | None,
        measure: LatencyHistogram,
    ) -> None:
        """Connect all, at a rate or at once. Returns when each is READY or has failed."""
        dues = [start] * len(clients)
        if rate is not None:
            pacer = Pacer(rate, start=start, phase=self._share.phase)
            dues = pacer.pop_due(math.inf, len(clients))
        async with trio.open_nursery() as nursery:
            for number, (client, due) in enumerate(zip(clients, dues, strict=True)):
                if (early := due - clock()) > 0:
                    await trio.sleep(early)
                elif number % _BATCH == 0:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(self._pool.bring_up, client, due, measure.recent)

    async def _storm(self, barrier: Barrier) -> None:
        """Drop all connections at one moment, and reconnect all clients at once."""
        await self._pool.prepare(self._clients)
        start = await barrier("storm")
        await trio.sleep(max(0.0, start - clock()))
        self._pool.drop(self._clients)
        await self._connect(self._clients, start, None, self.recorder.latencies["ready_again"])
        await trio.sleep(_PAUSE_AFTER_STORM)

    # -------------------------------------------------------------------------- asking

    async def _load(self, start: float) -> None:
        """Warm up, then measure. Without a loop, the clients are only connected."""
        if not any(client.state is State.READY for client in self._clients):
            return  # no client can send a request
        plan = self._plan
        begin = start + plan.warmup
        end = begin + plan.duration
        self.recorder.window = (begin, end)
        await trio.sleep(max(0.0, start - clock()))
        if plan.loop == "open" and self._share.rate > 0:
            await self._open_loop(begin)
        elif plan.loop == "closed":
            self._pool.closed_loop = True
            for client in self._senders:
                self.recorder.counts.sent += client.ask(clock(), plan.in_flight)
        await trio.sleep(max(0.0, end - clock()))
        self._pool.closed_loop = False
        await self._last_answers()

    async def _open_loop(self, begin: float) -> None:
        plan, share = self._plan, self._share
        pacer = Pacer(
            share.rate,
            start=begin,
            duration=plan.duration,
            warmup=plan.warmup,
            phase=share.phase,
        )
        delays = self.recorder.latencies["send_delay"].recent
        while math.isfinite(due := pacer.next):
            if (early := due - clock()) > _SPIN:
                await trio.sleep(early - _SPIN)
            else:
                await trio.lowlevel.checkpoint()
            now = clock()
            for due in pacer.pop_due(now, _BATCH):
                if self._send_request(due) and due >= begin:
                    delays.append(now - due)

    def _send_request(self, due: float) -> bool:
        """Send a request from the next sender that is READY. Returns whether it was sent."""
        counts = self.recorder.counts
        for _ in self._senders:
            client = self._senders[self._turn]
            self._turn = (self._turn + 1) % len(self._senders)
            if client.state is State.READY:
                if client.ask(due):
                    counts.sent += 1
                    return True
                break
        counts.not_sent += 1
        return False

    async def _last_answers(self) -> None:
        """Wait for the last answers and deliveries; count requests without an answer."""
        counts = self.recorder.counts
        with trio.move_on_after(GRACE):
            delivered = -1
            while counts.delivered != delivered or any(
                client.pending and client.state is State.READY for client in self._senders
            ):
                delivered = counts.delivered
                await trio.sleep(_SETTLE)
        for client in self._senders:
            if client.state is State.READY:
                counts.unanswered += len(client.pending)
            client.pending.clear()

    # -------------------------------------------------------------------------- slow readers

    async def _bring_up_slow(self) -> None:
        """Connect the slow readers. After that their sockets are not read."""
        await self._connect(self._slow, clock(), None, LatencyHistogram())
        for client in self._slow:
            if client.state is State.READY and client.transport is not None:
                client.transport.stop_watching()
                self.recorder.counts.slow_readers_open += 1

    async def _watch_slow(self) -> None:
        """Send their requests, if no topic fills their buffers; detect closed connections.

        A Close frame remains unread, because everything before it is unread too.
        """
        asking = self._plan.topic is None and self._plan.loop != "none"
        while True:
            await trio.sleep(_SLOW_TICK)
            for client in self._slow:
                if client.state is State.READY and client.transport is not None:
                    if asking:
                        client.ask(clock(), _SLOW_BATCH)
                        client.pending.clear()
                    if client.transport.peer_closed:
                        self._pool.read(client)

    async def _read_slow(self) -> None:
        """Read everything that they were sent; the last message may be the reason for a close."""
        for client in self._slow:
            if client.state is State.READY:
                self._pool.read(client)
        seen = -1
        with trio.move_on_after(_READING):
            while (received := sum(client.received for client in self._slow)) != seen:
                seen = received
                await trio.sleep(_SETTLE)
