"""The driver that reads one WebSocket when the poller of all sockets calls it.

Most messages of a server on Linux are delivered by it, without any task. It starts the task of
`TaskReader` for all that may have to wait: control frames, a pause, large messages, the end. That
task returns the socket to the poller when it is done.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from trioserver.websocket.frames import Item
from trioserver.websocket.nonblocking import NonblockingStream
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.task_reader import RECEIVE_BYTES, Readable, TaskReader

_BATCH_BYTES: Final = 1536
"""Bytes that the poller reads of one socket before it reads the next: some 16 small messages. With
half as many, a client that sends many at once waits; with twice as many, the others wait."""

_MAX_DEFERRALS: Final = 2
"""Rounds of the poller for which answers may wait for a task that is about to add to them. It is
woken before the first of them ends, and runs before the second does."""


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
            self.nursery = nursery
            self.return_to_poller()

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
    def hangup_poller(self) -> SocketPoller:
        return self._poller

    def return_to_poller(self) -> bool:
        descriptor = self._transport.fileno()
        if self.is_closed or descriptor < 0:
            self.start_task(None)
        else:
            self._descriptor = descriptor
            self._poller.watch(descriptor, self)
        return True

    def _continue_in_task(self, items: list[Item] | None) -> None:
        """Control frames and the end may have to wait for something; large messages for others."""
        self.stop()
        start = partial(self.start_task, items)
        websocket = self.websocket
        if items and websocket is not None and websocket.protocol.decoder.has_large:
            waiting = sum(len(item) for item in items if isinstance(item, bytes))
            websocket.memory_account.set_partial(waiting + websocket.protocol.decoder.partial_bytes)
            self._poller.schedule_large_start(start)
        else:
            self._poller.schedule_start(start)

    # -------------------------------------------------------------------------- for the poller

    def read_nowait(self) -> bytes | None:
        """See `PollHandler`."""
        websocket = self.websocket
        assert websocket is not None, "it is watched"
        send_queue = websocket.send_queue
        if send_queue.queued_bytes > send_queue.low_water_bytes and not websocket.has_room():
            self._continue_in_task([])
            return None
        # A message of more bytes than a batch has is one of few: read it faster.
        missing = websocket.protocol.decoder.missing
        size = min(missing, RECEIVE_BYTES) if missing > _BATCH_BYTES else _BATCH_BYTES
        try:
            return self._transport.read_nowait(size)
        except OSError:
            return b""

    def receive_nowait(self, data: bytes, now: float) -> None:
        """See `PollHandler`. Answers are held back until `flush_nowait`."""
        websocket = self.websocket
        if not data or websocket is None:
            self._continue_in_task(None)
            return
        protocol = websocket.protocol
        items = protocol.receive_data(data, now)
        if not items or websocket.memory_account.partial:
            self.account_partial(items)
        if protocol.pace.left <= 0 or not protocol.decoder.only_messages:
            self._continue_in_task(items)
            return
        websocket.deliver_messages(items, now)  # type: ignore[arg-type]  # all are messages
        if self._pause is not None:
            self._continue_in_task([])

    def flush_nowait(self) -> bool:
        """See `PollHandler`."""
        websocket = self.websocket
        if websocket is None:
            return True
        if self._deferrals < _MAX_DEFERRALS and websocket.about_to_send:
            self._deferrals += 1
            return False
        self._deferrals = 0
        websocket.send_queue.uncork()
        return True
