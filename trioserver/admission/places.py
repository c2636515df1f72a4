"""Who gets in when it is full: those who authenticate promptly, before those who are silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from trioserver.admission.holders import Holders

SPARE: Final = 64
"""Connections above the cap that are told ``server_busy``; beyond these they are just dropped."""

Cap: TypeAlias = Literal["address", "all"]
"""Which cap somebody has to give way for."""


class Ticket:
    """A place. ``evict`` is called when somebody else needs it; plain, it must not raise.

    ``key`` is the address that it is counted under (`addresses.key_of`), ``since`` when it was
    taken.
    """

    __slots__ = ("evict", "key", "since")

    def __init__(self, evict: Callable[[], None], key: str, since: float) -> None:
        self.evict = evict
        self.key = key
        self.since = since


class Admission:
    """Counts connections, all of them and those that have not authenticated.

    At a cap of unauthenticated ones, the oldest silent one gives way:

    - ``max_per_address``: one of the same address, unless all of these are younger than
      ``grace`` seconds. So two hundred that come at once and authenticate promptly all get in,
      and silent ones keep out no neighbour. The empty key is nobody's address: no such cap.
    - ``max_unauthenticated``: one of the same address, if none holds more; else one of the address
      that holds most. Those who wait for their token to be verified have done their part: they
      give way only where nobody is silent, and then only to an address that holds less.

    Time comes in as an argument. Every operation takes constant time, whatever the numbers.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        max_unauthenticated: int,
        max_per_address: int,
        grace: float,
        on_eviction: Callable[[Ticket, Cap], None] | None = None,
    ) -> None:
        self.max_connections = max_connections
        self.max_unauthenticated = max_unauthenticated
        self.max_per_address = max_per_address
        self.grace = grace
        self.open = 0
        self.evicted = 0
        self._on_eviction = on_eviction
        self._silent: Holders[Ticket] = Holders()  # the peer has yet to send something
        self._verifying: Holders[Ticket] = Holders()  # it has sent its token, and waits for us

    @property
    def unauthenticated(self) -> int:
        """How many have not authenticated yet."""
        return len(self._silent) + len(self._verifying)

    @property
    def is_full(self) -> bool:
        """Whether the newest one is one too many."""
        return self.open > self.max_connections

    def enter(self, evict: Callable[[], None], key: str, now: float) -> Ticket | None:
        """Take a place; None when there is not even one for a refusal."""
        if self.open >= self.max_connections + SPARE:
            return None
        self._make_room_at(key, now)
        if not self._make_room(key, self.max_unauthenticated - 1):
            return None
        ticket = Ticket(evict, key, now)
        self.open += 1
        self._silent.add(ticket)
        return ticket

    def reconfigure(
        self, *, max_connections: int, max_unauthenticated: int, max_per_address: int, grace: float
    ) -> None:
        """Other caps, at once: unauthenticated ones give way where they are too many now."""
        self.max_connections = max_connections
        self.max_unauthenticated = max_unauthenticated
        self.max_per_address = max_per_address
        self.grace = grace
        self._make_room("", max_unauthenticated)

    def identify(self, ticket: Ticket, key: str, now: float) -> None:
        """A proxy has said whose connection this is; it counts there as the newest."""
        if key != ticket.key and self._silent.discard(ticket):
            self._make_room_at(key, now)
            ticket.key = key
            self._silent.add(ticket)

    def verifying(self, ticket: Ticket) -> None:
        """The holder has sent its token: from now on it waits for us."""
        if self._silent.discard(ticket):
            self._verifying.add(ticket)

    def authenticated(self, ticket: Ticket) -> None:
        """The holder is known now, and is not evicted any more."""
        self._remove(ticket)
        ticket.evict = _stay

    def refused(self, ticket: Ticket) -> None:
        """The holder is being closed, which takes its time, but none that others need."""
        self._remove(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Give the place back; called once."""
        self._remove(ticket)
        self.open -= 1

    def _remove(self, ticket: Ticket) -> None:
        if not self._silent.discard(ticket):
            self._verifying.discard(ticket)

    # -------------------------------------------------------------------------- making room

    def _make_room_at(self, key: str, now: float) -> None:
        """Under the cap for one address."""
        silent = self._silent
        while key and silent.count(key) + self._verifying.count(key) >= self.max_per_address:
            if not silent.count(key):
                break
            oldest = silent.oldest(key)
            if now - oldest.since < self.grace:
                break
            self._evict(oldest, "address")

    def _make_room(self, key: str, number: int) -> bool:
        """Leave no more than so many of all; False where nobody has to give way."""
        while self.unauthenticated > number:
            silent, verifying = self._silent, self._verifying
            if silent.most:
                own = silent.count(key) == silent.most
                self._evict(silent.oldest(key) if own else silent.oldest_of_most(), "all")
            elif verifying.most > verifying.count(key) + 1:
                self._evict(verifying.oldest_of_most(), "all")
            else:
                return False
        return True

    def _evict(self, ticket: Ticket, cap: Cap) -> None:
        self._remove(ticket)
        self.evicted += 1
        ticket.evict()
        if self._on_eviction is not None:
            self._on_eviction(ticket, cap)


def _stay() -> None:
    """Nobody evicts who is known; what `Ticket.evict` was need not be kept."""
