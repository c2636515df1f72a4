"""Closing connections and keeping clients out, as operators and applications ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from protocol import Disconnect
from trioserver.app.connection import Connection
from trioserver.auth import User, id_if_given
from trioserver.auth.blocks import Block, Blocks
from trioserver.server.registry import Registry


@attrs.frozen(kw_only=True)
class BlockResult:
    """The result of `Server.block`.

    ``disconnected`` is the number of connections that were closed. ``stored``: the block is in the
    database, so it survives a restart.
    """

    block: Block
    disconnected: int
    stored: bool


class Administration:
    """`Server` says what its methods do."""

    def __init__(
        self, registry: Registry, blocks: Blocks, *, wall_clock: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._blocks = blocks
        self._wall_clock = wall_clock

    def disconnect(
        self,
        *,
        user: str | User | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        connection: str | Connection | None,
        code: str,
        message: str | None,
    ) -> int:
        """See `Server.disconnect`."""
        if user is None and token_id is None and resource is None and connection is None:
            raise ValueError("no criterion given: give user, token_id, resource or connection")
        user, connection = id_if_given(user), _id_if_given(connection)
        matching = self._registry.matching(
            user=user, token_id=token_id, resource=resource, connection=connection
        )
        if connection is None and (user is not None or token_id is not None):
            self._blocks.withdrawals.add(
                user=user,
                token_id=token_id,
                resource=resource,
                refusal=Disconnect(code, message),
            )
        for candidate in matching:
            candidate.disconnect(code, message)
        return len(matching)

    async def block(
        self,
        *,
        user: str | User | None,
        token_id: str | None,
        sid: str | None,
        resource: Mapping[str, str] | None,
        until: float | None,
        reason: str | None,
        actor: str | User | None,
    ) -> BlockResult:
        """See `Server.block`."""
        block = Block(
            user=id_if_given(user),
            token_id=token_id,
            sid=sid,
            resource=resource,
            until=until,
            reason=reason,
            actor=id_if_given(actor),
            created_at=self._wall_clock(),
        )
        disconnected = await self._blocks.add(block)
        stored = self._blocks.is_stored(block)
        return BlockResult(block=block, disconnected=disconnected, stored=stored)

    async def unblock(
        self,
        id: str | None,
        *,
        user: str | User | None,
        token_id: str | None,
        sid: str | None,
        resource: Mapping[str, str] | None,
    ) -> int:
        """See `Server.unblock`."""
        target: dict[str, Any] = {
            "user": id_if_given(user),
            "token_id": token_id,
            "sid": sid,
            "resource": resource,
        }
        target = {name: value for name, value in target.items() if value is not None}
        if id is None and not target:
            raise ValueError("no criterion given: give id, user, token_id, sid or resource")
        return await self._blocks.remove(self._blocks.find(id, target))


def id_of(connection: str | Connection) -> str:
    """Return the id of a connection, or an id as it is. Raises `TypeError` for anything else."""
    if isinstance(connection, Connection):
        return connection.id
    if isinstance(connection, str):
        return connection
    kind = type(connection).__name__
    raise TypeError(f"connection must be a Connection or the id of one, a str, not {kind}")


def _id_if_given(connection: str | Connection | None) -> str | None:
    return None if connection is None else id_of(connection)
