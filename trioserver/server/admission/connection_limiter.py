"""How many connections there may be, and which is evicted when there is one too many.

One limiter for both sides of the port. A connection holds a `Slot`; its state is the class that it
counts in. Whatever cap is reached, whoever gets on with it gets in: silent and idle connections are
evicted, first those of the address that has most of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, Literal, TypeAlias

from trioserver.config import LimitsConfig
from trioserver.server.admission.per_key_fifo import PerKeyFifo

SPARE: Final = 64
"""Connections above ``limits.max_connections``: those that are being closed, and, up to the half of
them, those that have yet to show what they are. Without these, a newcomer to a server that is
nearly full of READY connections could not even be told so."""

_MAX_GONE: Final = 1024
"""Connections that were ended by force and have not ended yet; a handler in a thread may take its
time. Beyond, newcomers are dropped."""

_KEPT_SILENT: Final = 16
"""Silent connections that are left in peace while HTTP requests can be evicted in their place. So
HTTP cannot keep WebSockets out, and silence cannot end uploads and downloads."""

Cap: TypeAlias = Literal["address", "all", "http", "connections"]
"""Which cap made an eviction necessary: ``limits.max_unauthenticated_per_address``,
``limits.max_unauthenticated``, ``http.max_connections``, or ``limits.max_connections``."""


class SlotState(Enum):
    """The classes of connections."""

    SILENT = "silent"  # the peer has yet to send something: a head, or its token
    VERIFYING = "verifying"  # it has sent its token, and waits for us
    IDLE = "idle"  # HTTP, between two requests
    BUSY = "busy"  # HTTP, in a request
    READY = "ready"  # a WebSocket that is authenticated; it is never evicted
    LEAVING = "leaving"  # it is being closed, and may take its time for it
    GONE = "gone"  # it was ended by force, or has ended


class Slot:
    """The place of one connection; a context manager, which gives it back.

    ``key`` is the address that it is counted under (`addresses.address_key`), ``since`` when it was
    taken. ``evict`` is called when somebody else needs the slot, ``abort`` when it is evicted and
    even its end takes too long; both are plain, and must not raise. All methods change nothing for
    a connection that was evicted.
    """

    __slots__ = ("_limiter", "abort", "evict", "is_told", "key", "since", "state")

    def __init__(
        self, limiter: ConnectionLimiter, evict: Callable[[], None], key: str, since: float
    ) -> None:
        self._limiter = limiter
        self.evict = evict
        self.abort = evict
        self.is_told = False
        """``evict`` only begins the end: the peer is told, and closing takes its time."""
        self.key = key
        self.since = since
        self.state = SlotState.SILENT

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self._limiter._release(self)

    def identify(self, key: str, now: float) -> None:
        """A proxy has said whose connection this is; it counts there as the newest."""
        self._limiter._identify(self, key, now)

    def verifying(self) -> None:
        """The peer has sent its token."""
        self._move(SlotState.VERIFYING)

    def ready(self) -> bool:
        """The peer is known, and is not evicted any more; False where READY ones fill the server.

        Several may be verified at the same time, while there is room for one of them.
        """
        if self._limiter.is_full:
            return False
        if self._move(SlotState.READY):
            self.evict = self.abort = _stay
        return True

    def serve_http(self, *, spare: bool = False) -> None:
        """It is HTTP. At a cap another one is evicted for it; with ``spare``, for a probe, only at
        ``http.max_connections``."""
        if self.state is SlotState.SILENT:
            self._limiter._make_room_for_http(self.key, spare=spare)
            self._move(SlotState.BUSY)

    def idle(self, is_idle: bool) -> None:
        """HTTP waits for the next request, or has got it."""
        self._move(SlotState.IDLE if is_idle else SlotState.BUSY)

    def leaving(self) -> None:
        """It is being closed. This takes its time, but no slot that others need."""
        self._move(SlotState.LEAVING)

    def _move(self, state: SlotState) -> bool:
        if self.state in (SlotState.LEAVING, SlotState.GONE):
            return False
        self._limiter._move(self, state)
        return True


class ConnectionLimiter:
    """Counts connections in classes, and evicts where a cap is reached.

    - ``limits.max_unauthenticated_per_address``: the oldest silent one of the same address, unless
      all of these are younger than ``limits.unauthenticated_grace``. So two hundred that come at
      once and authenticate promptly all get in, and silent ones keep out no neighbour. The empty
      key is nobody's address: it has no such cap.
    - ``limits.max_unauthenticated``: the oldest silent one, of the same address if none has more,
      else of the address that has most. Those whose token is being verified have done their part:
      they are evicted only where nobody is silent, and then only for an address that has fewer.
    - ``http.max_connections``: likewise an idle HTTP connection, else one in a request.
    - ``limits.max_connections``: an idle HTTP connection, a silent one, one in a request, one that
      is being verified, in this order. READY ones stay: where they alone fill it, newcomers are
      told.

    Time comes in as an argument. Every operation takes constant time, whatever the numbers.
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
        self._verifying: PerKeyFifo[Slot] = PerKeyFifo()
        self._idle: PerKeyFifo[Slot] = PerKeyFifo()
        self._busy: PerKeyFifo[Slot] = PerKeyFifo()
        self._by_state: Final = {
            SlotState.SILENT: self._silent,
            SlotState.VERIFYING: self._verifying,
            SlotState.IDLE: self._idle,
            SlotState.BUSY: self._busy,
        }
        self._ready = 0
        self._leaving: OrderedDict[Slot, None] = OrderedDict()
        self._gone = 0

    @property
    def unauthenticated(self) -> int:
        """How many have not authenticated yet; HTTP never does, and does not count."""
        return len(self._silent) + len(self._verifying)

    @property
    def http(self) -> int:
        """How many speak HTTP."""
        return len(self._idle) + len(self._busy)

    @property
    def is_full(self) -> bool:
        """Whether READY connections fill ``limits.max_connections``."""
        return self._ready >= self.limits.max_connections

    def enter(self, evict: Callable[[], None], key: str, now: float) -> Slot | None:
        """Take a slot; None where nobody can be evicted for it."""
        self._make_room_at(key, now)
        if not self._make_room_before_ready(key, self.limits.max_unauthenticated - 1):
            return None
        if not self._make_room_of_all(key, self.limits.max_connections + SPARE // 2 - 1):
            return None
        slot = Slot(self, evict, key, now)
        self.open += 1
        self._silent.add(slot)
        return slot

    def reconfigure(self, limits: LimitsConfig) -> None:
        """Other caps, at once: whoever is one too many now is evicted."""
        self.limits = limits
        self._make_room_before_ready("", limits.max_unauthenticated)
        self._make_room_of_all("", limits.max_connections + SPARE // 2)

    # -------------------------------------------------------------------------- of slots

    def _identify(self, slot: Slot, key: str, now: float) -> None:
        if key != slot.key and self._silent.discard(slot):
            self._make_room_at(key, now)
            slot.key = key
            self._silent.add(slot)

    def _move(self, slot: Slot, state: SlotState) -> None:
        self._remove(slot)
        slot.state = state
        match state:
            case SlotState.READY:
                self._ready += 1
            case SlotState.LEAVING:
                self._leaving[slot] = None
            case SlotState.GONE:
                self._gone += 1
            case _:
                self._by_state[state].add(slot)

    def _remove(self, slot: Slot) -> None:
        match slot.state:
            case SlotState.READY:
                self._ready -= 1
            case SlotState.LEAVING:
                del self._leaving[slot]
            case SlotState.GONE:
                self._gone -= 1
            case state:
                self._by_state[state].discard(slot)

    def _release(self, slot: Slot) -> None:
        self._remove(slot)
        self.open -= 1
        slot.state = SlotState.GONE
        slot.evict = slot.abort = _stay

    # -------------------------------------------------------------------------- making room

    def _make_room_at(self, key: str, now: float) -> None:
        """Under the cap for one address."""
        silent, most = self._silent, self.limits.max_unauthenticated_per_address
        while key and silent.count(key) and silent.count(key) + self._verifying.count(key) >= most:
            oldest = silent.oldest(key)
            if now - oldest.since < self.limits.unauthenticated_grace:
                break
            self._evict(oldest, "address")

    def _make_room_before_ready(self, key: str, number: int) -> bool:
        """Leave at most ``number`` unauthenticated ones; False where none can be evicted."""
        while self.unauthenticated > number:
            victim = _victim(self._silent, key) or self._verifying_victim(key)
            if victim is None:
                return False
            self._evict(victim, "all")
        return True

    def _make_room_for_http(self, key: str, *, spare: bool) -> None:
        """Under its own cap, and beside READY ones under that of all: what is spare is not for
        HTTP. It is one for one, so that HTTP which is there stays where READY ones fill the rest.
        """
        cap: Cap | None = None
        if self.http >= self._http_connections:
            cap = "http"
        elif self._ready + self.http >= self.limits.max_connections and not spare:
            cap = "connections"
        victim = None if cap is None else _victim(self._idle, key) or _victim(self._busy, key)
        if cap is not None and victim is not None:
            self._evict(victim, cap)

    def _make_room_of_all(self, key: str, number: int) -> bool:
        """Leave at most ``number`` that are not being closed, and bound those that are."""
        if self._gone >= _MAX_GONE:
            return False
        while self.open - self._gone - len(self._leaving) > number:
            victim = self._victim_of_all(key)
            if victim is None:
                return False
            self._evict(victim, "connections")
        while self._leaving and self.open - self._gone > number + SPARE // 2:
            self._abort(next(iter(self._leaving)))
        return True

    def _victim_of_all(self, key: str) -> Slot | None:
        silent = self._silent
        return (
            _victim(self._idle, key)
            or (_victim(silent, key) if len(silent) > _KEPT_SILENT else None)
            or _victim(self._busy, key)
            or _victim(silent, key)
            or self._verifying_victim(key)
        )

    def _verifying_victim(self, key: str) -> Slot | None:
        verifying = self._verifying
        if verifying.most > verifying.count(key) + 1:
            return verifying.oldest_of_most()
        return None

    def _evict(self, slot: Slot, cap: Cap) -> None:
        self.evicted += 1
        self._move(slot, SlotState.LEAVING if slot.is_told else SlotState.GONE)
        slot.evict()
        if self._on_eviction is not None:
            self._on_eviction(slot, cap)

    def _abort(self, slot: Slot) -> None:
        self._move(slot, SlotState.GONE)
        slot.abort()


def _victim(holders: PerKeyFifo[Slot], key: str) -> Slot | None:
    """The oldest: of ``key`` where nobody has more, else of whoever has most."""
    if not holders.most:
        return None
    own = holders.count(key) == holders.most
    return holders.oldest(key) if own else holders.oldest_of_most()


def _stay() -> None:
    """Nothing is evicted any more; what `Slot.evict` was need not be kept."""
