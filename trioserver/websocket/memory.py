"""A limit on the memory that all connections together hold in receive queues and send queues.

Above three quarters of the limit, reading is paused for connections that hold more than an equal
share, when what they hold grows. Above the limit itself, the connections that hold most are closed.

No message costs a pass over all connections: each has an account of its own, and the sum is updated
in steps of `GRAIN`. The accounts are sorted only when the limit is exceeded, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import trio

GRAIN: Final = 4096
"""Bytes. Smaller accounts, and smaller changes of an account, are not added to the sum, because
most connections hold less at any time. The error is at most this for each connection."""

_TURN: Final = 128 * 1024
"""Bytes that a connection may add when it is read again: what one read gives, and the answers."""


class SharedFrame(bytes):
    """A frame that many send queues hold at once. It is counted once, as long as it exists.

    ``total`` is the size of all such frames of this process.
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
    """A connection that holds memory. Plain functions, which must not raise."""

    def pause_for_memory(self) -> None:
        """Pause reading."""

    def resume_after_memory(self) -> None:
        """Resume reading."""

    def evict(self, *, slow: bool) -> None:
        """Close the connection. ``slow``: most of what it holds was not read by the peer."""


class MemoryLimiter:
    """Pauses and closes connections so that all together hold at most ``limit`` bytes, while `run`
    runs.

    ``limit`` may be changed at any time. ``on_pressure`` is called each time that connections are
    paused or closed.
    """

    def __init__(self, limit: int, *, on_pressure: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.evicted = 0
        self._on_pressure = on_pressure
        self._held = 0
        self._accounts: dict[MemoryAccount, None] = {}
        self._waiting: dict[MemoryAccount, None] = {}
        self._exceeded = trio.Event()

    @property
    def held(self) -> int:
        """The bytes that all connections hold together."""
        return self._held + SharedFrame.total

    @property
    def waiting(self) -> int:
        """How many connections are paused because of what they hold."""
        return len(self._waiting)

    @property
    def _mark(self) -> int:
        """The bytes above which connections are paused."""
        return self.limit // 4 * 3

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close the connections that hold most, whenever the limit is exceeded; until cancelled."""
        task_status.started()
        while True:
            await self._exceeded.wait()
            self._exceeded = trio.Event()
            self._evict()

    def change(self, account: MemoryAccount, by: int) -> None:
        """Update the sum after a change of an account; for `MemoryAccount`."""
        self._held += by
        self._keep(account)
        if by < 0:
            if self._waiting:
                self._resume_some()
        elif self.held > self._mark:
            self._restrain(account)

    def share(self, account: MemoryAccount, by: int) -> None:
        """Record that a connection holds more or fewer bytes of `SharedFrame`; for `MemoryAccount`.

        It is not paused for them, because reading less of it would not make them fewer.
        """
        self._keep(account)
        if by < 0:
            if self._waiting:
                self._resume_some()
        elif self.held > self.limit:
            self._exceeded.set()

    def _keep(self, account: MemoryAccount) -> None:
        if account.counted or account.shared:
            self._accounts[account] = None
        else:
            self._accounts.pop(account, None)

    def forget(self, account: MemoryAccount) -> None:
        """Drop the account of a connection that has ended; for `MemoryAccount`."""
        self._held -= account.counted
        self._accounts.pop(account, None)
        self._waiting.pop(account, None)
        if self._waiting:
            self._resume_some()

    def _restrain(self, account: MemoryAccount) -> None:
        if account.counted * len(self._accounts) >= self._mark and account not in self._waiting:
            self._waiting[account] = None
            account.holder.pause_for_memory()
            self._report()
        if self.held > self.limit:
            self._exceeded.set()

    def _resume_some(self) -> None:
        """Resume as many connections as there is room for, the longest paused first."""
        room = self._mark - self.held
        while room >= 0 and self._waiting:
            room -= _TURN
            account = next(iter(self._waiting))
            del self._waiting[account]
            account.holder.resume_after_memory()

    def _evict(self) -> None:
        """Close the connections that hold most, until none would be paused. Each is charged a share
        of all `SharedFrame`, as if all of these had equally many holders."""
        shared = sum(account.shared for account in self._accounts)
        part = SharedFrame.total / shared if shared else 0.0
        weights = {account: account.counted + part * account.shared for account in self._accounts}
        for account in sorted(weights, key=weights.__getitem__, reverse=True):
            if self.held <= self._mark:
                break
            self.evicted += 1
            account.evict()
        self._report()

    def _report(self) -> None:
        if self._on_pressure is not None:
            self._on_pressure()


class MemoryAccount:
    """The bytes that one connection holds: in its receive queue, in its send queue, and of a
    message that has not arrived completely.

    ``counted`` is the part that was reported to the `MemoryLimiter`. ``shared`` is what the send
    queue holds of `SharedFrame`, which the limiter counts once for all connections."""

    __slots__ = ("_holder", "_memory", "_queued", "_unsent", "counted", "partial", "shared")

    def __init__(self, memory: MemoryLimiter | None, holder: MemoryHolder) -> None:
        self.counted = 0
        self.shared = 0
        self._memory = memory
        self._holder: MemoryHolder | None = holder
        self._queued = 0
        self._unsent = 0
        self.partial = 0

    @property
    def holder(self) -> MemoryHolder:
        """The connection."""
        assert self._holder is not None, "it is open"
        return self._holder

    def set_queued(self, size: int) -> None:
        """Set the bytes of messages that wait or are being handled."""
        self._queued = size
        self._update()

    def set_unsent(self, size: int, shared: int = 0) -> None:
        """Set the bytes that are in the send queue or wait for room in it, without and with
        `SharedFrame`."""
        self._unsent = size
        self._update()
        change, self.shared = shared - self.shared, shared
        if change and self._memory is not None:
            self._memory.share(self, change)

    def set_partial(self, size: int) -> None:
        """Set the bytes of a message that has not arrived completely."""
        self.partial = size
        self._update()

    def _update(self) -> None:
        held = self._queued + self._unsent + self.partial
        if held < GRAIN:
            held = 0
        change = held - self.counted
        if self._memory is not None and change and (not held or abs(change) >= GRAIN):
            self.counted = held
            self._memory.change(self, change)

    def evict(self) -> None:
        """Close the connection. What it holds counts no longer, because it is about to be freed."""
        holder, slow = self.holder, self._unsent + self.shared > self._queued + self.partial
        self.close()
        holder.evict(slow=slow)

    def close(self) -> None:
        """Stop counting. A second call changes nothing."""
        memory, self._memory, self._holder = self._memory, None, None
        if memory is not None:
            memory.forget(self)
        self.counted = 0
