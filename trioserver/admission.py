"""Who gets in when it is full: those who authenticate promptly, before those who are silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SPARE: Final = 64
"""Connections above the cap that are told ``server_busy``; beyond these they are just dropped."""


class Ticket:
    """A place. ``evict`` is called when somebody else needs it; plain, it must not raise."""

    def __init__(self, evict: Callable[[], None]) -> None:
        self.evict = evict


class Admission:
    """Counts connections, all of them and those that have not authenticated.

    At ``max_unauthenticated`` the oldest of these gives way, so that a client that authenticates
    promptly gets in however many silent ones there are.
    """

    def __init__(self, *, max_connections: int, max_unauthenticated: int) -> None:
        self.max_connections = max_connections
        self.max_unauthenticated = max_unauthenticated
        self.open = 0
        self.evicted = 0
        self._unauthenticated: dict[Ticket, None] = {}

    @property
    def unauthenticated(self) -> int:
        """How many have not authenticated yet."""
        return len(self._unauthenticated)

    @property
    def is_full(self) -> bool:
        """Whether the newest one is one too many."""
        return self.open > self.max_connections

    def enter(self, evict: Callable[[], None]) -> Ticket | None:
        """Take a place; None when there is not even one for a refusal."""
        if self.open >= self.max_connections + SPARE:
            return None
        if len(self._unauthenticated) >= self.max_unauthenticated:
            oldest = next(iter(self._unauthenticated))
            del self._unauthenticated[oldest]
            self.evicted += 1
            oldest.evict()
        ticket = Ticket(evict)
        self.open += 1
        self._unauthenticated[ticket] = None
        return ticket

    def authenticated(self, ticket: Ticket) -> None:
        """The holder is known now, and is not evicted any more."""
        self._unauthenticated.pop(ticket, None)

    def leave(self, ticket: Ticket) -> None:
        """Give the place back; called once."""
        self._unauthenticated.pop(ticket, None)
        self.open -= 1
