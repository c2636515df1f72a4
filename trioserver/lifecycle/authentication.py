"""What follows from a verified token: `ready` the first time, `auth_refreshed` later."""

from __future__ import annotations

import trio

from protocol import Disconnect, Refusal, ServerState
from trioserver.auth import Credentials, User
from trioserver.auth.fingerprint import fingerprint
from trioserver.lifecycle.reporting import report_refresh
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.lifecycle.verification import verify


def accept(connection: ServerConnection, user: User, credentials: Credentials) -> None:
    """Send `ready`, and lift the limits for clients that are not authenticated."""
    protocol, websocket = connection.protocol, connection.websocket
    protocol.accept_auth(
        now=trio.current_time(),
        wall=connection.context.wall_clock(),
        connection_id=connection.id,
        user={**user.public, "id": user.id},
        resource=connection.path_params,
        expires_at=user.expires_at,
    )
    connection.acknowledges = credentials.fields.get("mailbox") == "ack"
    websocket.max_message_bytes = protocol.max_message_bytes
    websocket.expect_more()
    connection.flush()


async def refresh(connection: ServerConnection, credentials: Credentials) -> bool:
    """Verify a new token on a connection that is ready; return whether it counts from now on.

    The token must be the same user's, and is authorized again. The answer is queued in the
    protocol, for the caller to flush. If cancelled, the old token still counts.
    """
    protocol, began = connection.protocol, trio.current_time()
    connection.token = fingerprint(credentials.token)
    outcome = "refreshed"
    try:
        with trio.move_on_after(connection.context.config.auth.timeout) as scope:
            user = await verify(connection, credentials)
        if scope.cancelled_caught:
            raise Refusal("unavailable")
    except Refusal as refusal:
        if protocol.state is not ServerState.REFRESHING:
            return False  # the connection has ended in the meantime
        _refuse_refresh(connection, refusal)
        outcome = refusal.code
    else:
        if protocol.state is not ServerState.REFRESHING:
            return False
        connection.identify(user)
        protocol.accept_refresh(
            now=trio.current_time(),
            wall=connection.context.wall_clock(),
            expires_at=user.expires_at,
        )
    report_refresh(connection, outcome, began)
    return outcome == "refreshed"


def _refuse_refresh(connection: ServerConnection, refusal: Refusal) -> None:
    """Refuse a new token. If that is the server's fault, the old one still counts."""
    protocol = connection.protocol
    passing = refusal.code in ("unavailable", "internal_error")
    if passing and not isinstance(refusal, Disconnect):
        protocol.reject_refresh(refusal, trio.current_time())
    else:
        protocol.fail(refusal, None if protocol.auth is None else protocol.auth.id)
