"""What one process does: brings its clients up, lets them ask, drops them all, and counts.

Phases begin at the same instant in all processes: at each, `Signals.barrier` is asked when.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from trioserver.load.client_pool import Crowd
from trioserver.load.histogram import Measure
from trioserver.load.pacing import Pacer, clock
from trioserver.load.plan import Plan
from trioserver.load.recorder import Tally
from trioserver.load.simulated_client import Client, State
from trioserver.load.sockets import Sockets

Barrier: TypeAlias = Callable[[str], Awaitable[float]]
"""Waits until all processes have come to a phase of this name; gives the instant it begins at."""

GRACE: Final = 5.0
"""Seconds for the last answers; what has none by then is counted as unanswered."""

_SPIN: Final = 0.001
"""Trio wakes up to a millisecond late, which is many times what an answer takes: so the last
millisecond before a request is due is spent awake, reading sockets."""

_BATCH: Final = 256
"""Requests, or connections, between two looks at the sockets."""

_TICK: Final = 0.05
_SETTLE: Final = 0.05
_SLOW_TICK: Final = 0.05

_READING: Final = 2.0
"""Seconds for the slow readers to read at the end all that they did not before."""

_SLOW_BATCH: Final = 5
"""Requests of a slow reader in each tick: 100 a second, which no rate limit minds."""

_PAUSE_AFTER_STORM: Final = 0.2


class Generator:
    """One process's part of a plan. `run` does it all; ``tally`` has what was found so far."""

    def __init__(self, plan: Plan, index: int = 0, *, sockets: Sockets | None = None) -> None:
        self.tally = Tally()
        self._plan = plan
        self._share = share = plan.share(index)
        self._crowd = Crowd(plan, self.tally, sockets)
        self._clients = self._crowd.make(range(share.first, share.first + share.clients))
        self._senders = self._clients[: share.senders]
        first_slow = share.first_slow
        self._slow = self._crowd.make(range(first_slow, first_slow + share.slow_readers))
        self._crowd.slow = set(self._slow)
        self._turn = 0
        self.tally.counts.clients = share.clients
        self.tally.counts.slow_readers = share.slow_readers

    async def run(self, barrier: Barrier) -> None:
        """All phases. Cancelled, it drops its clients; what was counted stays.

        Raises `trioserver.load.tokens.NoToken`.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._crowd.run)
            try:
                await self._phases(barrier, nursery)
                await self._read_slow()
                await self._crowd.leave(self._clients)
            finally:
                self._crowd.closed_loop = False
                self._crowd.drop(self._clients)
                for client in self._slow:
                    client.drop()
                self.tally.end_second()
            nursery.cancel_scope.cancel()

    async def _phases(self, barrier: Barrier, nursery: trio.Nursery) -> None:
        await self._crowd.prepare([*self._clients, *self._slow])
        start = await barrier("connect")
        nursery.start_soon(self._keep_time, start)
        rate = self._share.connect_rate
        await self._connect(self._clients, start, rate, self.tally.measures["ready"])
        if self._slow:
            await self._bring_up_slow()
            nursery.start_soon(self._watch_slow)
        await self._load(await barrier("load"))
        for _ in range(self._plan.storms):
            await self._storm(barrier)

    async def _keep_time(self, start: float) -> None:
        """From the first moment on, one `Second` after the other."""
        while True:
            await trio.sleep(_TICK)
            self.tally.flush()
            if clock() >= start + 1.0 + len(self.tally.seconds):
                self.tally.end_second()

    # -------------------------------------------------------------------------- connecting

    async def _connect(
        self, clients: list[Client], start: float, rate: float | None, measure: Measure
    ) -> None:
        """All of them, at a rate or at once. Ends when each is READY or has given up."""
        dues = [start] * len(clients)
        if rate is not None:
            pacer = Pacer(rate, start=start, phase=self._share.phase)
            dues = pacer.take(math.inf, len(clients))
        async with trio.open_nursery() as nursery:
            for number, (client, due) in enumerate(zip(clients, dues, strict=True)):
                if (early := due - clock()) > 0:
                    await trio.sleep(early)
                elif number % _BATCH == 0:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(self._crowd.bring_up, client, due, measure.recent)

    async def _storm(self, barrier: Barrier) -> None:
        """All connections end at one moment, and all clients come back at once."""
        await self._crowd.prepare(self._clients)
        start = await barrier("storm")
        await trio.sleep(max(0.0, start - clock()))
        self._crowd.drop(self._clients)
        await self._connect(self._clients, start, None, self.tally.measures["ready_again"])
        await trio.sleep(_PAUSE_AFTER_STORM)

    # -------------------------------------------------------------------------- asking

    async def _load(self, start: float) -> None:
        """Warm up, then measure; with no loop to keep, the clients are just there."""
        if not any(client.state is State.READY for client in self._clients):
            return  # nobody to ask: it ends here, rather than counting what cannot be sent
        plan = self._plan
        begin = start + plan.warmup
        end = begin + plan.duration
        self.tally.window = (begin, end)
        await trio.sleep(max(0.0, start - clock()))
        if plan.loop == "open" and self._share.rate > 0:
            await self._open_loop(begin)
        elif plan.loop == "closed":
            self._crowd.closed_loop = True
            for client in self._senders:
                self.tally.counts.sent += client.ask(clock(), plan.in_flight)
        await trio.sleep(max(0.0, end - clock()))
        self._crowd.closed_loop = False
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
        delays = self.tally.measures["send_delay"].recent
        while math.isfinite(due := pacer.next):
            if (early := due - clock()) > _SPIN:
                await trio.sleep(early - _SPIN)
            else:
                await trio.lowlevel.checkpoint()
            now = clock()
            for due in pacer.take(now, _BATCH):
                if self._ask_somebody(due) and due >= begin:
                    delays.append(now - due)

    def _ask_somebody(self, due: float) -> bool:
        """A request from the sender whose turn it is; of those that are lost, others take it."""
        counts = self.tally.counts
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
        """Wait for what is still under way; what does not come is counted."""
        counts = self.tally.counts
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
        """Make them ready; from then on nobody reads what they are sent."""
        await self._connect(self._slow, clock(), None, Measure())
        for client in self._slow:
            if client.state is State.READY and client.transport is not None:
                client.transport.stop_watching()
                self.tally.counts.slow_readers_open += 1

    async def _watch_slow(self) -> None:
        """Let them ask, where there is no topic to fill their buffers, and see who was cut off.

        An end that the server says in its turn stays unread behind what was not read either.
        """
        asking = self._plan.topic is None and self._plan.loop != "none"
        while True:
            await trio.sleep(_SLOW_TICK)
            for client in self._slow:
                if client.state is State.READY and client.transport is not None:
                    if asking:
                        client.ask(clock(), _SLOW_BATCH)
                        client.pending.clear()
                    if client.transport.gone:
                        self._crowd.read(client)

    async def _read_slow(self) -> None:
        """At the end read all that they were sent: last of all, perhaps, why they were closed."""
        for client in self._slow:
            if client.state is State.READY:
                self._crowd.read(client)
        seen = -1
        with trio.move_on_after(_READING):
            while (received := sum(client.received for client in self._slow)) != seen:
                seen = received
                await trio.sleep(_SETTLE)
