"""Drivers that read one WebSocket: in a task of its own, or called by the poller of all sockets.

Most messages of a server on Linux are delivered by `PolledReader` without any task. It starts the
task of `TaskReader` for everything that may have to wait: control frames, a pause, large messages,
the end. That task returns the socket to the poller when it is done.
"""

from __future__ import annotations

from enum import IntFlag
from functools import partial
from typing import Final, Protocol

import trio

from trioserver.websocket.frames import Item
from trioserver.websocket.memory import MemoryAccount
from trioserver.websocket.nonblocking import NonblockingStream
from trioserver.websocket.peer_end import watched_for_end
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.protocol import State, WebSocketProtocol
from trioserver.websocket.send_queue import SendQueue

_RECEIVE_BYTES: Final = 64 * 1024

_BATCH_BYTES: Final = 1536
"""Bytes that the poller reads of one socket before it reads the next: some 16 small messages. With
half as many, a client that sends many at once waits; with twice as many, the others wait."""

_PAUSED_BYTES: Final = 16 * 1024
"""Bytes that `TaskReader.read_once` reads. No fewer than a TLS record has, because a record has to
be read whole."""

_MAX_DEFERRALS: Final = 2
"""Rounds of the poller for which answers may wait for a task that is about to add to them. It is
woken before the first of them ends, and runs before the second does."""

SHORT_PAUSE: Final = 1.0
"""Seconds of a pause after which the peer's end is watched for, and ends the connection. In a
shorter pause what the peer sent before its end is still handled, as it is without a pause; and
pauses that come and go with each batch of messages cost no system calls."""


class Pause(IntFlag):
    """Reasons why reading is paused. It continues when none is left."""

    QUEUE = 1
    """The message handler has enough messages."""
    ROOM = 2
    """The peer has to read answers first."""
    MEMORY = 4
    """All connections together hold too much, and this one holds much of it."""


class _PausedReading:
    """A pause, from its first reason to its last."""

    __slots__ = ("changed", "read_once", "reasons")

    def __init__(self) -> None:
        self.reasons = Pause(0)
        self.read_once = False  # whether one piece is to be read all the same
        self.changed = trio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Readable(Protocol):
    """The WebSocket that is read, as its driver sees it."""

    protocol: WebSocketProtocol
    send_queue: SendQueue
    memory_account: MemoryAccount

    @property
    def has_ended(self) -> bool:
        """Whether reading is over."""

    @property
    def about_to_send(self) -> bool:
        """See `MessageHandler`."""

    def has_room(self) -> bool:
        """Return whether there is room for answers; if not, reading is paused until there is."""

    def deliver_messages(self, messages: list[bytes], now: float) -> None:
        """Pass messages on; answers are held back until the send queue is uncorked."""

    async def deliver(self, items: list[Item]) -> None:
        """Pass on all that came, and answer control frames."""

    def end(self) -> None:
        """Record that nothing can be received any more. A second time changes nothing."""


class TaskReader:
    """Reads ``stream`` for ``websocket`` in a task."""

    __slots__ = ("_nursery", "_pause", "_stream", "_websocket")

    def __init__(self, websocket: Readable, stream: trio.abc.Stream) -> None:
        self._websocket: Readable | None = websocket
        self._stream = stream
        self._nursery: trio.Nursery | None = None
        self._pause: _PausedReading | None = None

    def start(self, nursery: trio.Nursery, data: bytes) -> None:
        """Read from now on, with tasks in ``nursery``; ``data`` was read already."""
        self._nursery = nursery
        self._start_task(self._decode(data) if data else [])

    def stop(self) -> None:
        """Leave the socket alone; to be called before it is closed."""

    def release(self) -> None:
        """Drop all references, after `stop`."""
        self._websocket = None
        self._nursery = None

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return self._pause is not None

    def pause(self, why: Pause) -> None:
        """Read no more until `resume`; what one read gave is still delivered."""
        if self._pause is None:
            self._pause = _PausedReading()
        self._pause.reasons |= why

    def resume(self, why: Pause) -> bool:
        """Drop a reason to pause. Return whether reading continues because of that."""
        pause = self._pause
        if pause is None:
            return False
        pause.reasons &= ~why
        if pause.reasons:
            return False
        self._pause = None
        pause.wake()
        return True

    def read_once(self) -> None:
        """Read one piece although reading is paused."""
        if self._pause is not None:
            self._pause.read_once = True
            self._pause.wake()

    def flush_answers(self) -> None:
        """Send what is held back."""
        if self._websocket is not None:
            self._websocket.send_queue.uncork()

    def _start_task(self, items: list[Item] | None) -> None:
        # It may have ended while other sockets were served.
        if self._nursery is not None and not self._is_closed:
            self._nursery.start_soon(self._run, items)

    async def _run(self, items: list[Item] | None) -> None:
        """Deliver ``items``, and what is read next. None is the end."""
        websocket = self._websocket
        assert websocket is not None, "it was not released"
        while items is not None:
            await websocket.deliver(items)
            self._account_partial(items)
            pace = websocket.protocol.pace
            if pace.left <= 0 and (rest := pace.rest(trio.current_time())):
                await trio.sleep(rest)
            if websocket.has_ended:
                break
            if not websocket.has_room() or self._pause is not None:
                await self._wait_resumed()
                if self._is_closed:
                    break
            if self._pause is None and self._return_to_poller():
                return
            items = self._decode(await self._receive())
        websocket.end()

    def _return_to_poller(self) -> bool:
        """Return whether somebody else reads from now on."""
        return False

    def _decode(self, data: bytes) -> list[Item] | None:
        """Decode what one read gave; None where it gave nothing, because that is the end."""
        if not data:
            return None
        assert self._websocket is not None, "it was not released"
        items = self._websocket.protocol.receive_data(data, trio.current_time())
        self._account_partial(items)
        return items

    def _account_partial(self, items: list[Item]) -> None:
        """A message that has arrived in part grows only by reads that complete none."""
        assert self._websocket is not None, "it was not released"
        account = self._websocket.memory_account
        if account.partial or not items:
            account.set_partial(self._websocket.protocol.decoder.partial_bytes)

    async def _receive(self) -> bytes:
        size = _RECEIVE_BYTES if self._pause is None else _PAUSED_BYTES
        try:
            return bytes(await self._stream.receive_some(size))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # -------------------------------------------------------------------------- pauses

    @property
    def _is_closed(self) -> bool:
        return self._websocket is None or self._websocket.protocol.state is State.CLOSED

    @property
    def _may_read(self) -> bool:
        if self._pause is None or self._pause.read_once or self._websocket is None:
            return True
        return self._websocket.protocol.state is not State.OPEN

    async def _wait_resumed(self) -> None:
        """Wait until reading may continue, or the peer has ended."""
        with trio.move_on_after(SHORT_PAUSE):
            await self._wait_may_read()
        if not self._may_read:
            async with watched_for_end(self._stream, self._hangup_poller, self._end_in_pause):
                await self._wait_may_read()
        if self._pause is not None:
            self._pause.read_once = False

    async def _wait_may_read(self) -> None:
        while not self._may_read:
            assert self._pause is not None
            await self._pause.changed.wait()

    @property
    def _hangup_poller(self) -> SocketPoller | None:
        return None

    def _end_in_pause(self) -> None:
        """The peer has ended; what it sent before is not read any more."""
        if self._websocket is not None:
            self._websocket.end()
        if self._pause is not None:
            self._pause.wake()


class PolledReader(TaskReader):
    """Reads when the ``poller`` calls it, as its `PollHandler`; ``transport`` is the stream."""

    __slots__ = ("_deferrals", "_descriptor", "_poller", "_transport")

    def __init__(
        self,
        websocket: Readable,
        stream: trio.abc.Stream,
        transport: NonblockingStream,
        poller: SocketPoller,
    ) -> None:
        super().__init__(websocket, stream)
        self._transport = transport
        self._poller = poller
        self._descriptor = -1  # while the poller watches it
        self._deferrals = 0  # rounds for which answers were held back for those of a task

    def start(self, nursery: trio.Nursery, data: bytes) -> None:
        """See `TaskReader.start`."""
        if data:
            super().start(nursery, data)
        else:
            self._nursery = nursery
            self._return_to_poller()

    def stop(self) -> None:
        """See `TaskReader.stop`."""
        if self._descriptor >= 0:
            self._poller.unwatch(self._descriptor, self)
            self._descriptor = -1

    def flush_answers(self) -> None:
        """Send what is held back, unless it leaves together with what other connections send."""
        if not self._deferrals:
            super().flush_answers()

    @property
    def _hangup_poller(self) -> SocketPoller:
        return self._poller

    def _return_to_poller(self) -> bool:
        descriptor = self._transport.fileno()
        if self._is_closed or descriptor < 0:
            self._start_task(None)
        else:
            self._descriptor = descriptor
            self._poller.watch(descriptor, self)
        return True

    def _continue_in_task(self, items: list[Item] | None) -> None:
        """Control frames and the end may have to wait for something; large messages for others."""
        self.stop()
        start = partial(self._start_task, items)
        websocket = self._websocket
        if items and websocket is not None and websocket.protocol.decoder.has_large:
            waiting = sum(len(item) for item in items if isinstance(item, bytes))
            websocket.memory_account.set_partial(waiting + websocket.protocol.decoder.partial_bytes)
            self._poller.schedule_large_start(start)
        else:
            self._poller.schedule_start(start)

    # -------------------------------------------------------------------------- for the poller

    def read_nowait(self) -> bytes | None:
        """See `PollHandler`."""
        websocket = self._websocket
        assert websocket is not None, "it is watched"
        send_queue = websocket.send_queue
        if send_queue.queued_bytes > send_queue.low_water_bytes and not websocket.has_room():
            self._continue_in_task([])
            return None
        # A message of more bytes than a batch has is one of few: read it faster.
        missing = websocket.protocol.decoder.missing
        size = min(missing, _RECEIVE_BYTES) if missing > _BATCH_BYTES else _BATCH_BYTES
        try:
            return self._transport.read_nowait(size)
        except OSError:
            return b""

    def receive_nowait(self, data: bytes, now: float) -> None:
        """See `PollHandler`. Answers are held back until `flush_nowait`."""
        websocket = self._websocket
        if not data or websocket is None:
            self._continue_in_task(None)
            return
        protocol = websocket.protocol
        items = protocol.receive_data(data, now)
        if not items or websocket.memory_account.partial:
            self._account_partial(items)
        if protocol.pace.left <= 0 or not protocol.decoder.only_messages:
            self._continue_in_task(items)
            return
        websocket.deliver_messages(items, now)  # type: ignore[arg-type]  # all are messages
        if self._pause is not None:
            self._continue_in_task([])

    def flush_nowait(self) -> bool:
        """See `PollHandler`."""
        websocket = self._websocket
        if websocket is None:
            return True
        if self._deferrals < _MAX_DEFERRALS and websocket.about_to_send:
            self._deferrals += 1
            return False
        self._deferrals = 0
        websocket.send_queue.uncork()
        return True
