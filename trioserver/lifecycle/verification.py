"""Who it is, and whether the resource is theirs: the application's checks, and what they may raise.

A look-up that fails or hangs is no refusal, and admits nobody. Whatever is raised becomes one
`protocol.Refusal`; what the client is not told goes to the log.
"""

from __future__ import annotations

import trio

from protocol import Refusal
from trioserver.app.connection import Connection
from trioserver.app.functions import unwrap
from trioserver.auth import Credentials, User
from trioserver.auth.blocks import Blocks
from trioserver.logs.context import bind_connection
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.phases import Phase
from trioserver.telemetry.tracing import step


async def verify(
    connection: Connection,
    credentials: Credentials,
    *,
    blocks: Blocks,
    authorization_timeout: float,
) -> User:
    """The user, authenticated, found to own the resource, and not blocked. Raises `Refusal`.

    On a connection that is ready, only its own user will do. What was withdrawn since this began is
    withdrawn: nothing runs between the last look and the return. Cancelling this leaves nothing
    behind.
    """
    with blocks.withdrawals.verification() as verification:
        known = connection._user
        bind_connection(connection.id, None if known is None else known.id)
        with step(connection, "authentication"):
            user = await _authenticate(connection, credentials)
        if known is None:
            connection._phases.enter(Phase.AUTHORIZING, trio.current_time())
            connection._identify(user)  # from here on a disconnect by user or token meets it
            bind_connection(connection.id, user.id)
        elif known.id != user.id:
            raise Refusal("access_denied", "The new token is for another user.")
        session = connection.session
        if session is None:  # where there is one, whose it is comes first
            blocks.check(user)
        with step(connection, "authorization"):
            await _authorize(connection, user, authorization_timeout)
        blocks.check(user, connection.resource, session=session)
        if user.expires_at is not None and user.expires_at <= connection._wall_clock():
            raise Refusal("token_expired")  # perhaps only while the owner was looked up
        blocks.withdrawals.check(verification, user, connection.resource)
        return user


async def _authenticate(connection: Connection, credentials: Credentials) -> User:
    try:
        user = await connection.route.auth(credentials, connection.request)
    except Exception as error:
        # In no variable: its traceback would hold this frame, and the frame would hold it.
        raise _refusal_for(connection, "authenticator_failed", error, "internal_error") from None
    if isinstance(user, Refusal):
        try:
            raise user
        finally:
            del user  # its traceback holds this frame: see above
    return user


async def _authorize(connection: Connection, user: User, timeout: float) -> None:
    authorize = connection.route.authorize
    if authorize is None:
        return
    allowed: object = False
    try:
        with trio.move_on_after(timeout) as scope:  # `fail_after` costs a generator
            allowed = await authorize(user, connection.resource)
        if scope.cancelled_caught:
            raise trio.TooSlowError
    except Exception as error:
        raise _refusal_for(connection, "authorizer_failed", error, "unavailable") from None
    if allowed is not True:  # nothing that is merely truthy, such as a forgotten coroutine
        raise Refusal("access_denied")


def _refusal_for(connection: Connection, event: str, error: Exception, code: str) -> Refusal:
    error = unwrap(error)
    if isinstance(error, Refusal):
        return error
    if may_log(event, connection.request.remote):
        connection.log.error(event, traceback=traceback_of(error))
    return Refusal(code)
