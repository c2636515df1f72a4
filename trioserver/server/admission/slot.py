"""The slot of one connection, and the classes of connections that slots are counted in."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class SlotState(Enum):
    """The classes of connections."""

    SILENT = "silent"  # the peer has yet to send something: a head, or its token
    AUTHENTICATING = "authenticating"  # it has sent its token, and waits for the server
    HTTP_IDLE = "http_idle"  # between two requests
    HTTP_ACTIVE = "http_active"  # in a request
    READY = "ready"  # an authenticated WebSocket; it is never evicted
    CLOSING = "closing"  # it is being closed, which may take time
    ABORTED = "aborted"  # it was cancelled and has not ended yet, or it has ended


class SlotLimiter(Protocol):
    """What a slot needs of the limiter that it counts in."""

    @property
    def is_full(self) -> bool:
        """Whether READY connections take all slots."""

    def move(self, slot: Slot, state: SlotState) -> None:
        """Count the slot in another class."""

    def identify(self, slot: Slot, key: str, now: float) -> None:
        """Count the slot under another address, as the newest there."""

    def make_room_for_http(self, key: str, *, spare: bool) -> None:
        """Evict an HTTP connection if one more would exceed a limit."""

    def release(self, slot: Slot) -> None:
        """Stop counting the slot."""


class Slot:
    """One connection's share of the limits; a context manager that releases it.

    - ``key``: the address that it counts under (`addresses.address_key`).
    - ``since``: when it was taken, in seconds of Trio's clock.
    - ``evict``: called when another connection needs the slot. ``abort``: called when an evicted
      connection takes too long to close. Both are synchronous and must not raise.
    - ``closes_gracefully``: ``evict`` only begins the end, because the peer is sent a reason.

    The methods do nothing for a connection that is closing.
    """

    __slots__ = ("_limiter", "abort", "closes_gracefully", "evict", "key", "since", "state")

    def __init__(
        self, limiter: SlotLimiter, evict: Callable[[], None], key: str, since: float
    ) -> None:
        self._limiter = limiter
        self.evict = evict
        self.abort = evict
        self.closes_gracefully = False
        self.key = key
        self.since = since
        self.state = SlotState.SILENT

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        self._limiter.release(self)
        self.evict = self.abort = _do_nothing

    def identify(self, key: str, now: float) -> None:
        """Count under another address, which a proxy has named; as the newest connection there."""
        self._limiter.identify(self, key, now)

    def authenticating(self) -> None:
        """Note that the peer has sent its token."""
        self._move(SlotState.AUTHENTICATING)

    def ready(self) -> bool:
        """Note that the peer is authenticated, so that it is not evicted any more.

        Return False if READY connections take all slots. Several connections may authenticate at
        the same time while there is room for one of them.
        """
        if self._limiter.is_full:
            return False
        if self._move(SlotState.READY):
            self.evict = self.abort = _do_nothing
        return True

    def serve_http(self, *, spare: bool = False) -> None:
        """Note that this is HTTP. At a limit, another HTTP connection is evicted for it.

        ``spare``: a probe, for which one is evicted only at ``http.max_connections``.
        """
        if self.state is SlotState.SILENT:
            self._limiter.make_room_for_http(self.key, spare=spare)
            self._move(SlotState.HTTP_ACTIVE)

    def idle(self, is_idle: bool) -> None:
        """Note that HTTP waits for the next request, or has got it."""
        self._move(SlotState.HTTP_IDLE if is_idle else SlotState.HTTP_ACTIVE)

    def closing(self) -> None:
        """Note that it is being closed. Until it has ended, it takes no slot that others need."""
        self._move(SlotState.CLOSING)

    def _move(self, state: SlotState) -> bool:
        if self.state in (SlotState.CLOSING, SlotState.ABORTED):
            return False
        self._limiter.move(self, state)
        return True


def _do_nothing() -> None:
    """Stands for `Slot.evict` when it is over, so that the connection is not kept alive."""
