"""The driver that reads one WebSocket in a task. Reading can be paused."""

from __future__ import annotations

from enum import IntFlag
from typing import Final, Protocol

import trio

from trioserver.websocket.frames import Item
from trioserver.websocket.memory import MemoryAccount
from trioserver.websocket.peer_end import watched_for_end
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.protocol import State, WebSocketProtocol
from trioserver.websocket.send_queue import SendQueue

RECEIVE_BYTES: Final = 64 * 1024

_PAUSED_BYTES: Final = 16 * 1024
"""Bytes that `TaskReader.read_once` reads. No fewer than a TLS record has, because a record has to
be read whole."""

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

    __slots__ = ("_pause", "_stream", "nursery", "websocket")

    def __init__(self, websocket: Readable, stream: trio.abc.Stream) -> None:
        self.websocket: Readable | None = websocket
        self._stream = stream
        self.nursery: trio.Nursery | None = None
        self._pause: _PausedReading | None = None

    def start(self, nursery: trio.Nursery, data: bytes) -> None:
        """Read from now on, with tasks in ``nursery``; ``data`` was read already."""
        self.nursery = nursery
        self.start_task(self._decode(data) if data else [])

    def stop(self) -> None:
        """Leave the socket alone; to be called before it is closed."""

    def release(self) -> None:
        """Drop all references, after `stop`."""
        self.websocket = None
        self.nursery = None

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
        if self.websocket is not None:
            self.websocket.send_queue.uncork()

    def start_task(self, items: list[Item] | None) -> None:
        # It may have ended while other sockets were served.
        if self.nursery is not None and not self.is_closed:
            self.nursery.start_soon(self._run, items)

    async def _run(self, items: list[Item] | None) -> None:
        """Deliver ``items``, and what is read next. None is the end."""
        websocket = self.websocket
        assert websocket is not None, "it was not released"
        while items is not None:
            await websocket.deliver(items)
            self.account_partial(items)
            pace = websocket.protocol.pace
            if pace.left <= 0 and (rest := pace.rest(trio.current_time())):
                await trio.sleep(rest)
            if websocket.has_ended:
                break
            if not websocket.has_room() or self._pause is not None:
                await self._wait_resumed()
                if self.is_closed:
                    break
            if self._pause is None and self.return_to_poller():
                return
            items = self._decode(await self._receive())
        websocket.end()

    def return_to_poller(self) -> bool:
        """Return whether somebody else reads from now on."""
        return False

    def _decode(self, data: bytes) -> list[Item] | None:
        """Decode what one read gave; None where it gave nothing, because that is the end."""
        if not data:
            return None
        assert self.websocket is not None, "it was not released"
        items = self.websocket.protocol.receive_data(data, trio.current_time())
        self.account_partial(items)
        return items

    def account_partial(self, items: list[Item]) -> None:
        """A message that has arrived in part grows only by reads that complete none."""
        assert self.websocket is not None, "it was not released"
        account = self.websocket.memory_account
        if account.partial or not items:
            account.set_partial(self.websocket.protocol.decoder.partial_bytes)

    async def _receive(self) -> bytes:
        size = RECEIVE_BYTES if self._pause is None else _PAUSED_BYTES
        try:
            return bytes(await self._stream.receive_some(size))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # -------------------------------------------------------------------------- pauses

    @property
    def is_closed(self) -> bool:
        return self.websocket is None or self.websocket.protocol.state is State.CLOSED

    @property
    def _may_read(self) -> bool:
        if self._pause is None or self._pause.read_once or self.websocket is None:
            return True
        return self.websocket.protocol.state is not State.OPEN

    async def _wait_resumed(self) -> None:
        """Wait until reading may continue, or the peer has ended."""
        with trio.move_on_after(SHORT_PAUSE):
            await self._wait_may_read()
        if not self._may_read:
            async with watched_for_end(self._stream, self.hangup_poller, self._end_in_pause):
                await self._wait_may_read()
        if self._pause is not None:
            self._pause.read_once = False

    async def _wait_may_read(self) -> None:
        while not self._may_read:
            assert self._pause is not None
            await self._pause.changed.wait()

    @property
    def hangup_poller(self) -> SocketPoller | None:
        return None

    def _end_in_pause(self) -> None:
        """The peer has ended; what it sent before is not read any more."""
        if self.websocket is not None:
            self.websocket.end()
        if self._pause is not None:
            self._pause.wake()
