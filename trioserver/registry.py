"""Who is connected at this moment."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from trioserver.connection import Connection


class Registry:
    """The connections of a server: all of them, and those that are ready."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._ready: set[Connection] = set()
        self._empty = trio.Event()

    @property
    def ready(self) -> tuple[Connection, ...]:
        """Those that are ready, in no order."""
        return tuple(self._ready)

    @property
    def ready_count(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def all(self) -> tuple[Connection, ...]:
        """All of them, the oldest first."""
        return tuple(self._connections.values())

    @property
    def is_empty(self) -> bool:
        """Whether nobody is connected."""
        return not self._connections

    @property
    def waiting(self) -> list[Connection]:
        """Those that are not ready yet."""
        return [each for each in self._connections.values() if each not in self._ready]

    def add(self, connection: Connection) -> None:
        """It has begun."""
        self._connections[connection.id] = connection

    def became_ready(self, connection: Connection) -> None:
        """It is ready; where its route says so, that ends the others in the same place."""
        self._ready.add(connection)
        if connection.route.supersede:
            for other in self.ready:
                if other is not connection and other._is_same_place(connection):
                    other.disconnect("superseded")

    def remove(self, connection: Connection) -> None:
        """It has ended."""
        del self._connections[connection.id]
        self._ready.discard(connection)
        if not self._connections:
            self._empty.set()

    def matching(
        self,
        *,
        user: str | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        connection: str | None,
    ) -> list[Connection]:
        """Those that fit everything that is given, also such as are not ready yet."""
        return [
            candidate
            for candidate in self._connections.values()
            if candidate._matches(user, token_id, resource, connection)
        ]

    async def wait_empty(self) -> None:
        """Wait until nobody is connected."""
        while self._connections:
            self._empty = trio.Event()
            await self._empty.wait()
