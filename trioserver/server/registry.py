"""Who is connected at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import trio

from trioserver.auth.blocks import Block
from trioserver.lifecycle.server_connection import ServerConnection

_Person: TypeAlias = tuple[int, str]
"""A user of an authenticator; the users of another may have the same ids."""


class Registry:
    """The connections of a server: all of them, and those that are ready."""

    def __init__(self) -> None:
        self._connections: dict[str, ServerConnection] = {}
        self._ready: set[ServerConnection] = set()
        self._by_user: dict[_Person, dict[ServerConnection, None]] = {}
        self._empty = trio.Event()

    @property
    def ready(self) -> tuple[ServerConnection, ...]:
        """Those that are ready, in no order."""
        return tuple(self._ready)

    @property
    def ready_count(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def all(self) -> tuple[ServerConnection, ...]:
        """Everybody, also those that are not ready yet, in order of arrival."""
        return tuple(self._connections.values())

    @property
    def is_empty(self) -> bool:
        """Whether nobody is connected."""
        return not self._connections

    @property
    def waiting(self) -> list[ServerConnection]:
        """Those that are not ready yet."""
        return [each for each in self._connections.values() if each not in self._ready]

    def add(self, connection: ServerConnection) -> None:
        """It has begun."""
        self._connections[connection.id] = connection

    def became_ready(self, connection: ServerConnection, max_per_user: int) -> None:
        """It is ready; where its route says so, that ends the others in the same place.

        Beyond ``max_per_user`` the oldest of the user ends, and not the newest: the oldest may be
        one that the user lost long ago, and that is only not yet known to be dead. It is told
        ``superseded``, and so stays away: two that took turns would never come to rest.
        """
        self._ready.add(connection)
        mine = self._by_user.setdefault(_person(connection), {})
        mine[connection] = None
        while len(mine) > max_per_user:
            oldest = next(iter(mine))
            del mine[oldest]
            oldest.disconnect("superseded", "Too many connections of this user.")
        if connection.route.supersede:
            for other in tuple(mine):
                if other is not connection and _is_same_target(other, connection):
                    other.disconnect("superseded")

    def remove(self, connection: ServerConnection) -> None:
        """It has ended."""
        del self._connections[connection.id]
        if connection in self._ready:
            self._ready.remove(connection)
            self._forget(connection)
        if not self._connections:
            self._empty.set()

    def _forget(self, connection: ServerConnection) -> None:
        mine = self._by_user.get(_person(connection), {})
        mine.pop(connection, None)
        if not mine:
            self._by_user.pop(_person(connection), None)

    def matching(
        self,
        *,
        user: str | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        connection: str | None,
    ) -> list[ServerConnection]:
        """Those that fit everything that is given, also such as are not ready yet."""
        return [
            candidate
            for candidate in self._connections.values()
            if matches(candidate, user, token_id, resource, connection)
        ]

    def get(self, id: str) -> ServerConnection | None:
        """The connection with this id, None where it has ended."""
        return self._connections.get(id)

    def fitting(self, block: Block) -> list[ServerConnection]:
        """Those that a block fits.

        Who is still being verified is met too, unless the block names a resource, or they come
        for a session: whether that is theirs is not known yet, and they are refused as soon as it
        is. Who is verified and has not been sent `ready` yet is met in any case.
        """
        return [candidate for candidate in self.all if self._fits(block, candidate)]

    def _fits(self, block: Block, candidate: ServerConnection) -> bool:
        user, sid = candidate.user, candidate.login_session_id
        if user is None:
            return False
        verified = candidate.protocol.is_ready
        if not verified and (block.resource is not None or sid is not None):
            return False
        return block.fits(user, candidate.path_params, sid)

    def disconnect_blocked(self, block: Block) -> int:
        """Close the connections that a block fits; return how many there were."""
        fitting = self.fitting(block)
        for connection in fitting:
            connection.disconnect(block.refusal.code)
        return len(fitting)

    async def wait_empty(self) -> None:
        """Wait until nobody is connected."""
        while self._connections:
            self._empty = trio.Event()
            await self._empty.wait()


def matches(
    connection: ServerConnection,
    user: str | None,
    token_id: str | None,
    resource: Mapping[str, str] | None,
    connection_id: str | None,
) -> bool:
    """Whether a connection matches everything that is given; None matches all."""
    if connection_id is not None and connection_id != connection.id:
        return False
    if resource is not None and not resource.items() <= connection.path_params.items():
        return False
    if user is None and token_id is None:
        return True
    known = connection.user
    if known is None:
        return False
    return (user is None or user == known.id) and (token_id is None or token_id == known.token_id)


def _is_same_target(one: ServerConnection, other: ServerConnection) -> bool:
    """Whether two connections of a user are to the same resource of the same route."""
    return one.route is other.route and one.path_params == other.path_params


def _person(connection: ServerConnection) -> _Person:
    assert connection.user is not None, "only connections that are ready are indexed by user"
    return id(connection.route.auth), connection.user.id
