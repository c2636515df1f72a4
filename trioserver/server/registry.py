"""The connections of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import trio

from trioserver.auth.blocks import Block
from trioserver.lifecycle.server_connection import ServerConnection

_UserKey: TypeAlias = tuple[int, str]
"""A user: the authenticator, and the id, which another authenticator may use for another user."""


class Registry:
    """All connections, those that are ready, and those of each user."""

    def __init__(self) -> None:
        self._connections: dict[str, ServerConnection] = {}
        self._ready: set[ServerConnection] = set()
        self._by_user: dict[_UserKey, dict[ServerConnection, None]] = {}
        self._empty = trio.Event()

    @property
    def ready(self) -> tuple[ServerConnection, ...]:
        """The connections that are ready, in no order."""
        return tuple(self._ready)

    @property
    def ready_count(self) -> int:
        """The number of connections that are ready."""
        return len(self._ready)

    @property
    def all(self) -> tuple[ServerConnection, ...]:
        """All connections, ready or not, in the order in which they began."""
        return tuple(self._connections.values())

    @property
    def waiting(self) -> list[ServerConnection]:
        """The connections that are not ready yet."""
        return [each for each in self._connections.values() if each not in self._ready]

    def add(self, connection: ServerConnection) -> None:
        """Add a connection that begins."""
        self._connections[connection.id] = connection

    def became_ready(self, connection: ServerConnection, max_per_user: int) -> None:
        """Note that a connection is ready, and close the user's connections that it replaces.

        If its route supersedes, these are the others to the same resource. If the user has more
        than ``max_per_user``, it is the oldest one, which the client may have lost long ago. It is
        closed with ``superseded``, so that its client stays away. Otherwise two clients would
        close each other's connections in a loop.
        """
        self._ready.add(connection)
        mine = self._by_user.setdefault(_user_key(connection), {})
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
        """Remove a connection that has ended."""
        del self._connections[connection.id]
        if connection in self._ready:
            self._ready.remove(connection)
            self._forget(connection)
        if not self._connections:
            self._empty.set()

    def _forget(self, connection: ServerConnection) -> None:
        mine = self._by_user.get(_user_key(connection), {})
        mine.pop(connection, None)
        if not mine:
            self._by_user.pop(_user_key(connection), None)

    def matching(
        self,
        *,
        user: str | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        connection: str | None,
    ) -> list[ServerConnection]:
        """Return the connections, ready or not, that match everything given."""
        return [
            candidate
            for candidate in self._connections.values()
            if matches(candidate, user, token_id, resource, connection)
        ]

    def get(self, id: str) -> ServerConnection | None:
        """Return the connection with this id; None if there is none, or it has ended."""
        return self._connections.get(id)

    def fitting(self, block: Block) -> list[ServerConnection]:
        """Return the connections that a block applies to.

        A connection that is not authorized yet is among them unless the block names a resource, or
        the connection is for a login session: whether these are the user's is not known yet, and
        the block is checked again when it is. From then on the connection is among them, whether
        `ready` has been sent or not.
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
        """Wait until there is no connection."""
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


def _user_key(connection: ServerConnection) -> _UserKey:
    assert connection.user is not None, "only connections that are ready are indexed by user"
    return id(connection.route.auth), connection.user.id
