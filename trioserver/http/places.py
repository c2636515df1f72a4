"""How many HTTP connections there may be, and which gives way when there is one too many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import trio


class Guest(Protocol):
    """Whoever holds a place."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its next request."""

    def give_way(self) -> None:
        """End at once; plain, it must not raise."""

    def drain(self) -> None:
        """End after what it is at; plain, it must not raise."""


class Places:
    """At ``limit``, an idle guest gives way, else the oldest: prompt requests always get in.

    A limit of its own keeps slow HTTP from filling the server up for WebSockets.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._guests: dict[Guest, None] = {}  # the oldest first
        self._empty = trio.Event()

    def __len__(self) -> int:
        return len(self._guests)

    def __iter__(self) -> Iterator[Guest]:
        return iter(tuple(self._guests))

    def enter(self, guest: Guest) -> None:
        """Take a place."""
        if len(self._guests) >= self._limit:
            idle = (other for other in self._guests if other.is_idle)
            leaving = next(idle, None) or next(iter(self._guests))
            del self._guests[leaving]
            leaving.give_way()
        self._guests[guest] = None

    def leave(self, guest: Guest) -> None:
        """Give the place back; a second time changes nothing."""
        self._guests.pop(guest, None)
        if not self._guests:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until nobody is there."""
        while self._guests:
            self._empty = trio.Event()
            await self._empty.wait()
