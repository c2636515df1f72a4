"""The queues of all users who are connected or are being sent a message, and their tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from trioserver.app.mailbox.deleting import Deleter
from trioserver.app.mailbox.recipient import Recipient
from trioserver.app.mailbox.store import Store
from trioserver.app.mailbox.user_queue import UserQueue


class UserQueues:
    """Makes a queue for a user when it is needed, and forgets it afterwards.

    ``now`` gives the time that says what is too old, in seconds since the Unix epoch.
    """

    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self.store = store
        self.now = now
        self._queues: dict[str, UserQueue] = {}
        self._deleter = Deleter(store)
        self._nurseries: list[trio.Nursery] = []  # one for each server that runs this

    def __len__(self) -> int:
        return len(self._queues)

    def get(self, user: str) -> UserQueue | None:
        """Return the queue of a user, or None if there is none at the moment."""
        return self._queues.get(user)

    @contextmanager
    def sending_to(self, user: str) -> Iterator[UserQueue]:
        """Keep the queue of a user for as long as this is open."""
        queue = self._queue(user)
        queue.senders += 1
        try:
            yield queue
        finally:
            queue.senders -= 1
            self.idle(user)

    def join(self, recipient: Recipient) -> None:
        """Deliver to a connection that has become ready, until `leave`."""
        self._queue(recipient.user_id).join(recipient)

    def leave(self, recipient: Recipient) -> None:
        """Stop delivering to a connection. Does nothing if it has not joined."""
        queue = self._queues.get(recipient.user_id)
        if queue is not None:
            queue.leave(recipient)

    def _queue(self, user: str) -> UserQueue:
        queue = self._queues.get(user)
        if queue is None:
            queue = self._queues[user] = UserQueue(user, self)
        return queue

    async def run(self) -> None:
        """Run the consumers of the queues, and delete what has been delivered; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nurseries.append(nursery)
                nursery.start_soon(self._deleter.run)
                self._wake()
        finally:
            self._nurseries.remove(nursery)
            self._wake()

    def _wake(self) -> None:
        for queue in tuple(self._queues.values()):
            queue.wake()

    # ------------------------------------------------------------- for a queue

    def undeleted(self) -> set[str]:
        """See `user_queue.Context`."""
        return self._deleter.ids()

    def delivered(self, id: str) -> None:
        """See `user_queue.Context`."""
        self._deleter.add(id)

    def start_consumer(self, consumer: Callable[[], Awaitable[None]]) -> bool:
        """See `user_queue.Context`."""
        if not self._nurseries:
            return False
        self._nurseries[-1].start_soon(consumer)
        return True

    def idle(self, user: str) -> None:
        """See `user_queue.Context`."""
        queue = self._queues.get(user)
        if queue is not None and queue.is_idle:
            del self._queues[user]
