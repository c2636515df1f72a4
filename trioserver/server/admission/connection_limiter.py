"""How many connections there may be, and which one is evicted if there is one too many.

One limiter for both sides of the port, WebSocket and HTTP. A connection holds a `Slot`, whose state
is the class that it counts in. Whatever limit is reached, a client that proceeds gets in: silent
and idle connections are evicted, first those of the address that has most of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from trioserver.config import LimitsConfig
from trioserver.server.admission.per_key_fifo import PerKeyFifo
from trioserver.server.admission.slot import Slot, SlotState

REJECT_HEADROOM: Final = 64
"""Connections above ``limits.max_connections``: those that are being closed and, up to half of
them, those that have yet to show what they are. Without these, a server that is nearly full of
READY connections could not even tell a new client so."""

_MAX_ABORTED: Final = 1024
"""Connections that were cancelled and have not ended yet, as a handler in a thread may take its
time. At this number, new connections are dropped."""

_KEPT_SILENT: Final = 16
"""Silent connections that are not evicted while HTTP requests can be evicted instead. So HTTP
cannot keep out WebSockets, and silent connections cannot end uploads and downloads."""

Cap: TypeAlias = Literal["address", "all", "http", "connections"]
"""The limit that made an eviction necessary: ``limits.max_unauthenticated_per_address``,
``limits.max_unauthenticated``, ``http.max_connections``, or ``limits.max_connections``."""


class ConnectionLimiter:
    """Counts connections in classes, and evicts one if a limit is reached.

    - ``limits.max_unauthenticated_per_address``: evicts the oldest silent connection of the same
      address, unless all of them are younger than ``limits.unauthenticated_grace``. So two hundred
      that come at once and authenticate promptly all get in, and silent ones keep out no neighbour.
      The empty key is no address, and has no such limit.
    - ``limits.max_unauthenticated``: evicts the oldest silent connection of the same address if no
      other address has more, otherwise of the address that has most. Connections that authenticate
      have done their part: one of them is evicted only if none is silent, and only for an address
      that has fewer.
    - ``http.max_connections``: likewise an idle HTTP connection, otherwise one in a request.
    - ``limits.max_connections``: an idle HTTP connection, a silent one, one in a request, one that
      authenticates, in this order. READY connections stay: if they alone take all slots, new
      clients are told so.

    Time is an argument. Every operation takes constant time.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        http_connections: int,
        on_eviction: Callable[[Slot, Cap], None] | None = None,
    ) -> None:
        self.limits = limits
        self.open = 0
        self.evicted = 0
        self._http_connections = http_connections
        self._on_eviction = on_eviction
        self._silent: PerKeyFifo[Slot] = PerKeyFifo()
        self._authenticating: PerKeyFifo[Slot] = PerKeyFifo()
        self._http_idle: PerKeyFifo[Slot] = PerKeyFifo()
        self._http_active: PerKeyFifo[Slot] = PerKeyFifo()
        self._queues: Final = {
            SlotState.SILENT: self._silent,
            SlotState.AUTHENTICATING: self._authenticating,
            SlotState.HTTP_IDLE: self._http_idle,
            SlotState.HTTP_ACTIVE: self._http_active,
        }
        self._ready = 0
        self._closing: OrderedDict[Slot, None] = OrderedDict()
        self._aborted = 0

    @property
    def unauthenticated(self) -> int:
        """How many WebSockets, and connections that are not known yet, are not authenticated."""
        return len(self._silent) + len(self._authenticating)

    @property
    def http(self) -> int:
        """How many are HTTP connections."""
        return len(self._http_idle) + len(self._http_active)

    @property
    def is_full(self) -> bool:
        """Whether READY connections take all of ``limits.max_connections``."""
        return self._ready >= self.limits.max_connections

    def enter(self, evict: Callable[[], None], key: str, now: float) -> Slot | None:
        """Take a slot; return None if no connection can be evicted for it."""
        self._make_room_at(key, now)
        if not self._make_room_before_ready(key, self.limits.max_unauthenticated - 1):
            return None
        if not self._make_room_of_all(key, self.limits.max_connections + REJECT_HEADROOM // 2 - 1):
            return None
        slot = Slot(self, evict, key, now)
        self.open += 1
        self._silent.add(slot)
        return slot

    def reconfigure(self, limits: LimitsConfig) -> None:
        """Use other limits at once, and evict connections that are too many now."""
        self.limits = limits
        self._make_room_before_ready("", limits.max_unauthenticated)
        self._make_room_of_all("", limits.max_connections + REJECT_HEADROOM // 2)

    # -------------------------------------------------------------------------- for slots

    def identify(self, slot: Slot, key: str, now: float) -> None:
        if key != slot.key and self._silent.discard(slot):
            self._make_room_at(key, now)
            slot.key = key
            self._silent.add(slot)

    def move(self, slot: Slot, state: SlotState) -> None:
        self._remove(slot)
        slot.state = state
        match state:
            case SlotState.READY:
                self._ready += 1
            case SlotState.CLOSING:
                self._closing[slot] = None
            case SlotState.ABORTED:
                self._aborted += 1
            case _:
                self._queues[state].add(slot)

    def _remove(self, slot: Slot) -> None:
        match slot.state:
            case SlotState.READY:
                self._ready -= 1
            case SlotState.CLOSING:
                del self._closing[slot]
            case SlotState.ABORTED:
                self._aborted -= 1
            case state:
                self._queues[state].discard(slot)

    def release(self, slot: Slot) -> None:
        self._remove(slot)
        self.open -= 1
        slot.state = SlotState.ABORTED

    # -------------------------------------------------------------------------- making room

    def _make_room_at(self, key: str, now: float) -> None:
        """Keep to the limit for one address."""
        silent, authenticating = self._silent, self._authenticating
        most = self.limits.max_unauthenticated_per_address
        while key and silent.count(key) and silent.count(key) + authenticating.count(key) >= most:
            oldest = silent.oldest(key)
            if now - oldest.since < self.limits.unauthenticated_grace:
                break
            self._evict(oldest, "address")

    def _make_room_before_ready(self, key: str, number: int) -> bool:
        """Leave at most ``number`` unauthenticated ones; return False if none can be evicted."""
        while self.unauthenticated > number:
            victim = _victim(self._silent, key) or self._authenticating_victim(key)
            if victim is None:
                return False
            self._evict(victim, "all")
        return True

    def make_room_for_http(self, key: str, *, spare: bool) -> None:
        """Keep HTTP to its own limit, and to the limit of all together with READY connections.

        The headroom is not for HTTP. One is evicted for one, so that the HTTP connections that are
        there stay if READY ones take the rest.
        """
        cap: Cap | None = None
        if self.http >= self._http_connections:
            cap = "http"
        elif self._ready + self.http >= self.limits.max_connections and not spare:
            cap = "connections"
        if cap is None:
            return
        victim = _victim(self._http_idle, key) or _victim(self._http_active, key)
        if victim is not None:
            self._evict(victim, cap)

    def _make_room_of_all(self, key: str, number: int) -> bool:
        """Leave at most ``number`` that are not closing, and bound those that are.

        Return False if none can be evicted.
        """
        if self._aborted >= _MAX_ABORTED:
            return False
        while self.open - self._aborted - len(self._closing) > number:
            victim = self._victim_of_all(key)
            if victim is None:
                return False
            self._evict(victim, "connections")
        while self._closing and self.open - self._aborted > number + REJECT_HEADROOM // 2:
            self._abort(next(iter(self._closing)))
        return True

    def _victim_of_all(self, key: str) -> Slot | None:
        silent = self._silent
        return (
            _victim(self._http_idle, key)
            or (_victim(silent, key) if len(silent) > _KEPT_SILENT else None)
            or _victim(self._http_active, key)
            or _victim(silent, key)
            or self._authenticating_victim(key)
        )

    def _authenticating_victim(self, key: str) -> Slot | None:
        authenticating = self._authenticating
        if authenticating.most > authenticating.count(key) + 1:
            return authenticating.oldest_of_most()
        return None

    def _evict(self, slot: Slot, cap: Cap) -> None:
        self.evicted += 1
        self.move(slot, SlotState.CLOSING if slot.closes_gracefully else SlotState.ABORTED)
        slot.evict()
        if self._on_eviction is not None:
            self._on_eviction(slot, cap)

    def _abort(self, slot: Slot) -> None:
        self.move(slot, SlotState.ABORTED)
        slot.abort()


def _victim(queue: PerKeyFifo[Slot], key: str) -> Slot | None:
    """The oldest of ``key`` if no other key has more, otherwise the oldest of the key with most."""
    if not queue.most:
        return None
    own = queue.count(key) == queue.most
    return queue.oldest(key) if own else queue.oldest_of_most()
