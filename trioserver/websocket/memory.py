"""The memory that all connections together hold in receive queues and send queues, and its bound.

From three quarters of the bound on, the connections that hold most are not read from: a connection
waits when what it holds grows, and is more than an equal share. Where that does not help, and the
bound itself is reached, the connections that hold most are closed.

Nothing here looks at all connections for a message: each keeps its own account, and the sum changes
with it, in steps of `GRAIN`. Only when the bound is exceeded are the accounts sorted, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import trio

GRAIN: Final = 4096
"""Bytes. Changes of a connection's account that are smaller than this are not added up, nor is an
account that is: most connections hold less at any time. The error is at most this for each."""

_TURN: Final = 128 * 1024
"""Bytes that a connection may add when it is read from again: what one read gives, and answers."""


class SharedFrame(bytes):
    """A frame that many send queues hold at once. It is counted once, for as long as it exists.

    ``total`` is what all of them hold, in this process.
    """

    total: ClassVar[int] = 0

    def __init__(self, _: bytes) -> None:
        SharedFrame.total += len(self)

    def __del__(self) -> None:
        SharedFrame.total -= len(self)


def shared(frame: bytes) -> bytes:
    """Return a frame to put into many send queues; small ones are counted for each of them."""
    return frame if len(frame) < GRAIN else SharedFrame(frame)


class MemoryHolder(Protocol):
    """A connection, as seen from here. Plain functions, which must not raise."""

    def pause_for_memory(self) -> None:
        """Read no more for now."""

    def resume_after_memory(self) -> None:
        """Read again."""

    def evict(self, *, slow: bool) -> None:
        """End. ``slow``: most of what it holds is what the peer has not read."""


class MemoryLimiter:
    """What the connections of a server hold, in bytes. `run` has to run.

    ``limit`` may be changed at any time. ``on_pressure`` is called whenever connections have to
    wait or are closed, as often as that happens.
    """

    def __init__(self, limit: int, *, on_pressure: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.evicted = 0
        self._on_pressure = on_pressure
        self._held = 0
        self._debts: dict[MemoryAccount, None] = {}
        self._waiting: dict[MemoryAccount, None] = {}
        self._exceeded = trio.Event()

    @property
    def held(self) -> int:
        """The bytes that all connections hold together."""
        return self._held + SharedFrame.total

    @property
    def waiting(self) -> int:
        """How many connections are not read from because of what they hold."""
        return len(self._waiting)

    @property
    def _mark(self) -> int:
        """From here on connections wait."""
        return self.limit // 4 * 3

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close those that hold most, whenever the limit is exceeded; until cancelled."""
        task_status.started()
        while True:
            await self._exceeded.wait()
            self._exceeded = trio.Event()
            self._evict()

    def change(self, memory: MemoryAccount, by: int) -> None:
        """An account has changed; for `Debt`."""
        self._held += by
        self._keep(memory)
        if by < 0:
            if self._waiting:
                self._let_go_on()
        elif self.held > self._mark:
            self._restrain(memory)

    def share(self, memory: MemoryAccount, by: int) -> None:
        """A connection has more or fewer frames for many, which nobody waits for: to read less of
        it makes them no fewer. For `Debt`."""
        self._keep(memory)
        if by < 0:
            if self._waiting:
                self._let_go_on()
        elif self.held > self.limit:
            self._exceeded.set()

    def _keep(self, memory: MemoryAccount) -> None:
        if memory.counted or memory.shared:
            self._debts[memory] = None
        else:
            self._debts.pop(memory, None)

    def forget(self, memory: MemoryAccount) -> None:
        """A connection has ended, and holds nothing any more; for `Debt`."""
        self._held -= memory.counted
        self._debts.pop(memory, None)
        self._waiting.pop(memory, None)
        if self._waiting:
            self._let_go_on()

    def _restrain(self, memory: MemoryAccount) -> None:
        if memory.counted * len(self._debts) >= self._mark and memory not in self._waiting:
            self._waiting[memory] = None
            memory.debtor.pause_for_memory()
            self._tell()
        if self.held > self.limit:
            self._exceeded.set()

    def _let_go_on(self) -> None:
        """Let as many go on as there is room for, those that have waited for longest first."""
        room = self._mark - self.held
        while room >= 0 and self._waiting:
            room -= _TURN
            memory = next(iter(self._waiting))
            del self._waiting[memory]
            memory.debtor.resume_after_memory()

    def _evict(self) -> None:
        """Close those that hold most, until nobody would have to wait. A frame for many is counted
        as if all of these had equally many holders."""
        shared = sum(memory.shared for memory in self._debts)
        part = SharedFrame.total / shared if shared else 0.0
        weights = {memory: memory.counted + part * memory.shared for memory in self._debts}
        for memory in sorted(weights, key=weights.__getitem__, reverse=True):
            if self.held <= self._mark:
                break
            self.evicted += 1
            memory.evict()
        self._tell()

    def _tell(self) -> None:
        if self._on_pressure is not None:
            self._on_pressure()


class MemoryAccount:
    """The bytes that one connection holds: in its receive queue, in its send queue, and of a
    message that has not arrived completely.

    ``counted`` is the part that was reported to the `MemoryLimiter`. ``shared`` is what the send
    queue holds of `SharedFrame`, which the limiter counts once for all connections."""

    __slots__ = ("_debtor", "_memory", "_queued", "_unsent", "counted", "partial", "shared")

    def __init__(self, memory: MemoryLimiter | None, debtor: MemoryHolder) -> None:
        self.counted = 0
        self.shared = 0
        self._memory = memory
        self._debtor: MemoryHolder | None = debtor
        self._queued = 0
        self._unsent = 0
        self.partial = 0

    @property
    def debtor(self) -> MemoryHolder:
        """Whose account it is."""
        assert self._debtor is not None, "it is open"
        return self._debtor

    def set_queued(self, size: int) -> None:
        """So many bytes are held for messages that wait or are being handled."""
        self._queued = size
        self._settle()

    def set_unsent(self, size: int, shared: int = 0) -> None:
        """Set the bytes that are in the send queue or wait for room in it, without and with
        `SharedFrame`."""
        self._unsent = size
        self._settle()
        change, self.shared = shared - self.shared, shared
        if change and self._memory is not None:
            self._memory.share(self, change)

    def set_partial(self, size: int) -> None:
        """So many bytes are there of a message that is not complete."""
        self.partial = size
        self._settle()

    def _settle(self) -> None:
        held = self._queued + self._unsent + self.partial
        if held < GRAIN:
            held = 0
        change = held - self.counted
        if self._memory is not None and change and (not held or abs(change) >= GRAIN):
            self.counted = held
            self._memory.change(self, change)

    def evict(self) -> None:
        """End the connection; what it holds is written off, for it is about to be freed."""
        debtor, slow = self.debtor, self._unsent + self.shared > self._queued + self.partial
        self.close()
        debtor.evict(slow=slow)

    def close(self) -> None:
        """Count no more. A second time changes nothing."""
        memory, self._memory, self._debtor = self._memory, None, None
        if memory is not None:
            memory.forget(self)
        self.counted = 0
