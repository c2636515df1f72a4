"""Delivering: a desk for each user who is connected, and a courier for each connection.

A letter that comes while somebody is connected is given to all couriers there are; one that has
waited is given to the first. Whoever has been given it holds it, so that no other courier takes it
from the database. It is done when the first of them has delivered it; when all have gone
without, the next courier takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from protocol import Refusal, TooBigToSendError, codec, raw
from protocol.messages import Message
from trioserver.app.mailbox.message import Letter
from trioserver.auth import User
from trioserver.storage import DatabaseUnavailableError
from trioserver.websocket.headers import MAX_HEADER
from trioserver.websocket.send_queue import SendQueueClosed
from trioserver.websocket.websocket import WebSocket

if TYPE_CHECKING:
    from trioserver.app.mailbox.sql_store import Store

RETRY: Final = 5.0
"""Seconds until a database that failed is asked again."""

MAX_LATER: Final = 1_000
"""Letters that come while a connection is still sent what has waited; beyond it, it is too slow."""


class Recipient(Protocol):
    """An authenticated connection that messages are delivered to; `ServerConnection` is one."""

    @property
    def user(self) -> User | None:
        """The authenticated user."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """The parameters of the path that the client connected to."""

    @property
    def acknowledges(self) -> bool:
        """Whether the client acknowledges each message."""

    @property
    def websocket(self) -> WebSocket:
        """Its send queue is where messages wait for the client."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more."""

    @property
    def log(self) -> Any:
        """A structlog logger."""

    def transmit(self, message: bytes) -> None:
        """Queue a message. Raises `TooBigToSendError`."""

    def fail(self, refusal: Refusal) -> None:
        """End the connection with an error."""


class Desk:
    """A user's letters that somebody holds. ``delivered`` is called with the id of each."""

    def __init__(self, user: str, delivered: Callable[[str], None]) -> None:
        self.user = user
        self.couriers: dict[Courier, None] = {}
        self.held: dict[str, set[Courier]] = {}
        self.posting = trio.Lock()
        self.reading = trio.Lock()
        self.gone: set[str] = set()
        """Delivered since the read that is under way began: it may still find them."""
        self.visitors = 0
        """Those who post at this moment."""
        self._delivered = delivered

    @property
    def is_idle(self) -> bool:
        """Whether nobody needs it any more."""
        return not self.couriers and not self.visitors

    def reserve(self, letter: Letter) -> list[Courier]:
        """Before it is stored: whoever is here now will be given it."""
        here = [courier for courier in self.couriers if courier.takes(letter)]
        if here:
            self.held[letter.id] = set(here)
        return here

    def give(self, letter: Letter, here: list[Courier]) -> int:
        """It is stored: give it to those it is reserved for. How many have it now."""
        holders = [courier for courier in here if courier in self.couriers]
        for courier in holders:
            courier.give(letter)
        if not holders:
            self.look_again()  # somebody may have come in the meantime
        return len(self.held.get(letter.id, ()))

    def take(self, courier: Courier, letters: list[Letter]) -> list[Letter]:
        """Of letters from the database, those that nobody holds; now this courier does."""
        free = [one for one in letters if one.id not in self.held and one.id not in self.gone]
        free = [letter for letter in free if courier.takes(letter)]
        for letter in free:
            self.held[letter.id] = {courier}
        return free

    def done(self, id: str) -> None:
        """It has been delivered."""
        self.forget(id)
        self._delivered(id)

    def forget(self, id: str) -> None:
        """It is not there any more, or never was."""
        self.held.pop(id, None)
        if self.reading.locked():
            self.gone.add(id)

    def leave(self, courier: Courier) -> None:
        """A courier has gone; what nobody else holds is for the next one."""
        self.couriers.pop(courier, None)
        mine = [id for id, holders in self.held.items() if courier in holders]
        for id in mine:
            self.held[id].discard(courier)
            if not self.held[id]:
                del self.held[id]
        if mine:
            self.look_again()

    def look_again(self) -> None:
        """There may be something in the database that nobody holds."""
        for courier in self.couriers:
            courier.look_again()


class Courier:
    """Delivers to one connection, in order, for as long as it lives.

    A client that acknowledges says itself what it has; any other has what has left for it.
    ``undone`` gives the ids of what has been delivered and is still in the database; ``clock``,
    in seconds since the Unix epoch, says what is too old.
    """

    def __init__(
        self,
        desk: Desk,
        connection: Recipient,
        *,
        store: Store,
        undone: Callable[[], set[str]],
        clock: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._connection = connection
        self._send_queue = connection.websocket.send_queue
        self._store = store
        self._undone = undone
        self._clock = clock
        self._later: deque[Letter] = deque()
        self._caught_up = False
        self._again = False
        self._last = 0
        self._sent: deque[tuple[int, str]] = deque()
        self._work = trio.Event()

    def takes(self, letter: Letter) -> bool:
        """Whether it is for this connection."""
        return letter.is_for(self._connection.path_params)

    def give(self, letter: Letter) -> None:
        """A letter that has just come. Never waits."""
        if self._caught_up:
            self._send(letter)
        elif len(self._later) >= MAX_LATER:
            self._connection.fail(Refusal("slow_consumer"))
        else:
            self._later.append(letter)

    def look_again(self) -> None:
        """Look into the database once more; what comes from now on is to be sent behind that."""
        self._again = True
        self._caught_up = False
        self._work.set()

    async def run(self) -> None:
        """Deliver what is there, then what comes; until cancelled."""
        self._desk.couriers[self] = None
        try:
            while True:
                try:
                    await self._catch_up()
                    await self._attend()
                except DatabaseUnavailableError as error:
                    self._connection.log.warning(
                        "mailbox_unavailable", error=str(error), category=error.category
                    )
                    await trio.sleep(RETRY)
                except SendQueueClosed:
                    await trio.sleep_forever()  # the connection is about to end
        finally:
            self._settle()
            self._desk.leave(self)

    # -------------------------------------------------------------------------- what has waited

    async def _catch_up(self) -> None:
        """Send all that nobody holds, then what has come meanwhile."""
        self._again = True
        while self._again or self._later:
            if self._again:
                await self._send_what_is_stored()
            else:
                await self._send_when_there_is_room(self._later.popleft())
        self._caught_up = True

    async def _send_what_is_stored(self) -> None:
        self._again = False
        self._last = 0
        async with self._desk.reading:  # one after the other, or their order would be mixed
            while await self._send_some():
                pass

    async def _tell_of_dropped(self, count: int) -> None:
        message = Message(type="mailbox.dropped", data=raw({"count": count}))
        position = self._put(codec.encode(message))
        if position is not None:
            await self._send_queue.wait_flushed(position)
            if self._send_queue.is_flushed(position):
                await self._store.told_of_dropped(self._desk.user, count)

    async def _send_some(self) -> bool:
        """Send what one read finds; False where that was the last."""
        self._desk.gone = self._undone()
        now = self._clock()
        page = await self._store.read(self._desk.user, after=self._last, now=now)
        letters = self._desk.take(self, page.letters)
        if page.dropped:
            await self._tell_of_dropped(page.dropped)
        for letter in letters:
            await self._send_when_there_is_room(letter)
        self._last = page.last
        return not page.is_last

    # -------------------------------------------------------------------------- sending

    async def _send_when_there_is_room(self, letter: Letter) -> None:
        await trio.lowlevel.checkpoint()
        await self._send_queue.wait_room(len(letter.text) + MAX_HEADER)
        self._send(letter)

    def _send(self, letter: Letter) -> None:
        position = self._put(letter.text)
        if position is not None and not self._connection.acknowledges:
            self._sent.append((position, letter.id))
            self._work.set()

    def _put(self, message: bytes) -> int | None:
        """Queue a message; its place in the send queue, None where it could not be queued."""
        if self._is_over():
            return None
        try:
            self._connection.transmit(message)
        except TooBigToSendError:
            self._connection.log.error("mailbox_message_too_big", bytes=len(message))
            return None
        return None if self._is_over() else self._send_queue.position

    def _is_over(self) -> bool:
        return self._connection.has_ended

    async def _attend(self) -> None:
        """Note what has left; returns when there is something to look for."""
        while not self._again:
            if self._sent:
                await self._send_queue.wait_flushed(self._sent[0][0])
                if not self._settle():
                    await trio.sleep_forever()  # discarded: the connection is about to end
            else:
                self._work = trio.Event()
                await self._work.wait()

    def _settle(self) -> bool:
        """Whatever has left is done. Whether anything was."""
        before = len(self._sent)
        while self._sent and self._send_queue.is_flushed(self._sent[0][0]):
            self._desk.done(self._sent.popleft()[1])
        return len(self._sent) < before
