"""The messages of one user on their way to the user's connections.

A message that is sent while connections are ready goes to all of them. One that has waited goes to
the first connection that it is for. Whichever connection a message was given to holds it, so that
no other one is given it from the database. It is done as soon as one of them has delivered it. If
they all end without that, it is given to another connection.

Messages that have waited are read and sent by one consumer for each user, a task that exists while
there is something to read. `Mailbox.send` sends the others itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import attrs
import trio

from protocol import codec, raw
from protocol.messages import Message
from trioserver.app.mailbox.message import StoredMessage
from trioserver.app.mailbox.recipient import Recipient
from trioserver.app.mailbox.store import RETRY, Store
from trioserver.app.mailbox.sweeping import log_unavailable

MAX_LATER: Final = 1_000
"""Messages that may be sent while a connection is still given what has waited. A connection that
has more of them is too slow."""


@attrs.define(eq=False)
class _Delivery:
    """A connection, and what it has been given."""

    recipient: Recipient
    is_current: bool = False
    """Whether it has been given all that waited: then new messages are sent to it at once."""
    later: list[StoredMessage] = attrs.field(factory=list)  # an empty deque is ten times as large
    """New messages, to be sent after what waited."""
    queued: list[tuple[int, str]] = attrs.field(factory=list)
    """Positions and ids of messages that have not been flushed. Empty for a client that
    acknowledges."""


class Context(Protocol):
    """What a `UserQueue` needs of its mailbox."""

    @property
    def store(self) -> Store:
        """The database."""

    def now(self) -> float:
        """The time that says what is too old, in seconds since the Unix epoch."""

    def undeleted(self) -> set[str]:
        """The ids of messages that have been delivered and are still in the database."""

    def delivered(self, id: str) -> None:
        """Note that a message has been delivered. It must not raise."""

    def start_consumer(self, consumer: Callable[[], Awaitable[None]]) -> bool:
        """Start a task; return False if there is nothing to run it. It is called again later."""

    def idle(self, user: str) -> None:
        """Note that the queue of a user may not be needed any more."""


class UserQueue:
    """One user's messages and connections. The methods that are not async never wait."""

    def __init__(self, user: str, context: Context) -> None:
        self.user = user
        self.sending = trio.Lock()
        """Held while a message is stored and given, so that all get messages in the same order."""
        self.senders = 0
        """Tasks that are sending or acknowledging."""
        self._context = context
        self._deliveries: dict[Recipient, _Delivery] = {}
        self._holders: dict[str, set[Recipient]] = {}
        self._is_consuming = False
        self._must_read = False
        self._gone: set[str] = set()
        """Ids that a read may still find, though they have been delivered or deleted."""

    @property
    def is_idle(self) -> bool:
        """Whether the queue has no connection and no task."""
        return not (self._deliveries or self.senders or self._is_consuming)

    @property
    def holds_nothing(self) -> bool:
        """Whether no message is on its way to a connection."""
        return not self._holders

    @property
    def recipients(self) -> int:
        """The number of connections."""
        return len(self._deliveries)

    @property
    def is_current(self) -> bool:
        """Whether all connections have been given all that waited."""
        return not self._must_read and all(each.is_current for each in self._deliveries.values())

    # -------------------------------------------------------------------------- connections

    def join(self, recipient: Recipient) -> None:
        """Deliver to a connection that has become ready, until `leave`."""
        self._deliveries[recipient] = _Delivery(recipient)
        self.read_again()

    def leave(self, recipient: Recipient) -> None:
        """Give what only this connection holds to another one."""
        if self._deliveries.pop(recipient, None) is None:
            return
        released = [id for id, holders in self._holders.items() if recipient in holders]
        for id in released:
            self._holders[id].discard(recipient)
            if not self._holders[id]:
                del self._holders[id]
        if released:
            self.read_all_again()
        self._context.idle(self.user)

    # -------------------------------------------------------------------------- new messages

    def reserve(self, message: StoredMessage) -> list[Recipient]:
        """Hold a message that is about to be stored for all connections that it is for."""
        recipients = [one for one in self._deliveries if message.is_for(one.path_params)]
        if recipients:
            self._holders[message.id] = set(recipients)
        return recipients

    def give(self, message: StoredMessage, recipients: list[Recipient]) -> int:
        """Give a stored message to those it was reserved for; return to how many."""
        count = len(self._holders.get(message.id, ()))  # some may have left, or have joined
        deliveries = [self._deliveries[one] for one in recipients if one in self._deliveries]
        if not deliveries:
            self.read_all_again()  # a connection may have joined in the meantime
            return count
        text = message.text
        for delivery in deliveries:
            if delivery.is_current:
                self._send(delivery, message.id, text)
            elif len(delivery.later) < MAX_LATER:
                delivery.later.append(message)
            else:
                delivery.recipient.fail_as_slow()
        return count

    def forget(self, id: str) -> None:
        """Hold a message no more: it was delivered or deleted, or storing it failed."""
        self._holders.pop(id, None)
        if self._is_consuming:
            self._gone.add(id)

    # -------------------------------------------------------------------------- the consumer

    def read_all_again(self) -> None:
        """Send what waits before anything new, on every connection."""
        for delivery in self._deliveries.values():
            delivery.is_current = False
        self.read_again()

    def read_again(self) -> None:
        """Read from the database what no connection holds, and send it."""
        self._must_read = True
        self.wake()

    def wake(self) -> None:
        """Start the consumer if it has something to do and does not run."""
        if self._must_read and self._deliveries and not self._is_consuming:
            self._is_consuming = self._context.start_consumer(self._consume)

    async def _consume(self) -> None:
        try:
            while self._must_read and self._deliveries:
                try:
                    await self._deliver()
                except Exception as error:  # no failure of a database ends the mailbox
                    self._must_read = True
                    log_unavailable(error)
                    await trio.sleep(RETRY)
        finally:
            self._must_read = not all(each.is_current for each in self._deliveries.values())
            self._is_consuming = False
            self._gone.clear()
            self._context.idle(self.user)

    async def _deliver(self) -> None:
        """Send what waits, then what has been sent since."""
        while self._must_read:
            self._must_read = False
            await self._send_stored()
            for delivery in tuple(self._deliveries.values()):
                while delivery.later and not self._must_read:
                    await self._send_when_there_is_room(delivery, delivery.later.pop(0))
                delivery.is_current = delivery.is_current or not self._must_read

    async def _send_stored(self) -> None:
        after, is_last = 0, False
        while self._deliveries and not is_last:
            self._gone = self._context.undeleted()
            page = await self._context.store.read(self.user, after=after, now=self._context.now())
            free = self._assign(page.messages)
            if page.dropped:
                await self._tell_of_dropped(page.dropped)
            for delivery, message in free:
                await self._send_when_there_is_room(delivery, message)
            after, is_last = page.last, page.is_last

    def _assign(self, messages: list[StoredMessage]) -> list[tuple[_Delivery, StoredMessage]]:
        """Choose a connection for each message that none holds, before anything is awaited."""
        assigned = []
        for message in messages:
            if message.id in self._holders or message.id in self._gone:
                continue
            for recipient, delivery in self._deliveries.items():
                if message.is_for(recipient.path_params):
                    self._holders[message.id] = {recipient}
                    assigned.append((delivery, message))
                    break
        return assigned

    async def _tell_of_dropped(self, count: int) -> None:
        recipient = next(iter(self._deliveries), None)
        if recipient is None:
            return
        message = Message(type="mailbox.dropped", data=raw({"count": count}))
        position = recipient.queue(codec.encode(message))
        if position is not None and await recipient.wait_flushed(position):
            await self._context.store.told_of_dropped(self.user, count)

    # -------------------------------------------------------------------------- sending

    async def _send_when_there_is_room(self, delivery: _Delivery, message: StoredMessage) -> None:
        await trio.lowlevel.checkpoint()
        text = message.text
        await delivery.recipient.wait_room(len(text))
        self._send(delivery, message.id, text)

    def _send(self, delivery: _Delivery, id: str, text: bytes) -> None:
        position = delivery.recipient.queue(text)
        if position is not None and not delivery.recipient.acknowledges:
            delivery.queued.append((position, id))
            if len(delivery.queued) == 1:
                self._await_flush(delivery)

    def _await_flush(self, delivery: _Delivery) -> None:
        position = delivery.queued[0][0]
        delivery.recipient.call_when_flushed(position, lambda: self._flushed(delivery))

    def _flushed(self, delivery: _Delivery) -> None:
        queued, recipient = delivery.queued, delivery.recipient
        while queued and recipient.is_flushed(queued[0][0]):
            _, id = queued.pop(0)
            self.forget(id)
            self._context.delivered(id)
        if queued:
            self._await_flush(delivery)
