"""An authenticator for development only: it accepts any user id that a client sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import structlog
import trio

from protocol import Refusal
from trioserver.auth.component import Component
from trioserver.auth.loopback import is_loopback
from trioserver.auth.user import Credentials, User
from trioserver.websocket.request import Request

_MAX_INTEGER: Final = 2**63
"""Integers of a database are no larger, and Python refuses to print very long ones."""

_log = structlog.get_logger("trioserver")


class TrustedUserId(Component):
    """An authenticator that accepts the ``user_id`` in the first message without any proof.

    It works on loopback addresses and Unix sockets only: `check_addresses` stops the start of a
    server with any other. ``dangerously_trust_every_client`` must be True.
    """

    def __init__(self, *, dangerously_trust_every_client: Literal[True]) -> None:
        if dangerously_trust_every_client is not True:
            raise ValueError(
                "TrustedUserId lets every client be any user: "
                "say dangerously_trust_every_client=True, or use JWTAuth."
            )

    async def __call__(self, credentials: Credentials, request: Request) -> User:
        """Return the user. Raises `Refusal` with ``token_missing`` if there is no ``user_id``."""
        await trio.lowlevel.checkpoint()
        user_id = credentials.fields.get("user_id")
        if type(user_id) is int and abs(user_id) < _MAX_INTEGER:
            user_id = str(user_id)
        if not (isinstance(user_id, str) and user_id and user_id.isprintable()):
            raise Refusal("token_missing", "user_id required")
        return User(id=user_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Log a warning once, when the server starts."""
        _log.warning(
            "user_ids_not_verified",
            hint="TrustedUserId lets every client be any user: for development only",
        )
        await trio.lowlevel.checkpoint()
        task_status.started()

    def check_addresses(self, addresses: Iterable[str]) -> None:
        """Raise `ValueError` unless all addresses can be reached from this machine only.

        An address is ``127.0.0.1:8765``, ``[::1]:8765``, or a Unix socket: a path with a slash in
        front, or ``unix:`` and any path.
        """
        for address in addresses:
            host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
            if not (address.startswith(("/", "unix:")) or is_loopback(host)):
                raise ValueError(
                    f"TrustedUserId lets every client be any user, so it cannot serve {address!r}: "
                    "listen on 127.0.0.1, [::1] or a Unix socket, or use JWTAuth."
                )
