"""Verifies a token: authentication, authorization and blocks.

If an authenticator or authorizer raises something else than a `protocol.Refusal`, or takes too
long, the client is not admitted: it gets a `Refusal`, and the log a line with the exception.
"""

from __future__ import annotations

import trio

from protocol import Refusal
from trioserver.app.functions import unwrap
from trioserver.auth import Credentials, User
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.context import bind_connection
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.phases import Phase
from trioserver.telemetry.tracing import step


async def verify(connection: ServerConnection, credentials: Credentials) -> User:
    """Return the user, if the user may connect to the resource and is not blocked.

    Raises `Refusal`. On a connection that is ready, only a token of the same user is accepted.
    Rights that are withdrawn while this runs count: it does not wait between the last check and the
    return. Cancelling this leaves nothing behind.
    """
    context = connection.context
    blocks = context.blocks
    with blocks.withdrawals.verification() as verification:
        known = connection.user
        bind_connection(connection.id, None if known is None else known.id)
        with step(connection.tracing, "authentication"):
            user = await _authenticate(connection, credentials)
        if known is None:
            connection.phases.enter(Phase.AUTHORIZING, trio.current_time())
            connection.identify(user)  # from here on a disconnect by user or token matches
            bind_connection(connection.id, user.id)
        elif known.id != user.id:
            raise Refusal("access_denied", "The new token is for another user.")
        sid = connection.login_session_id
        if sid is None:  # otherwise whether it is the user's is checked first
            blocks.check(user)
        with step(connection.tracing, "authorization"):
            await _authorize(connection, user)
        blocks.check(user, connection.path_params, sid=sid)
        if user.expires_at is not None and user.expires_at <= context.wall_clock():
            raise Refusal("token_expired")  # perhaps during the authorization
        blocks.withdrawals.check(verification, user, connection.path_params)
        return user


async def _authenticate(connection: ServerConnection, credentials: Credentials) -> User:
    try:
        user = await connection.route.auth(credentials, connection.request)
    except Exception as error:
        # Not kept in a variable: frame and traceback would refer to each other.
        raise _refusal_for(connection, "authenticator_failed", error, "internal_error") from None
    if isinstance(user, Refusal):
        try:
            raise user
        finally:
            del user  # its traceback holds this frame: see above
    return user


async def _authorize(connection: ServerConnection, user: User) -> None:
    authorize = connection.route.authorize
    if authorize is None:
        return
    allowed: object = False
    try:
        timeout = connection.context.config.auth.authorization_timeout
        with trio.move_on_after(timeout) as scope:  # `fail_after` costs a generator
            allowed = await authorize(user, connection.path_params)
        if scope.cancelled_caught:
            raise trio.TooSlowError
    except Exception as error:
        raise _refusal_for(connection, "authorizer_failed", error, "unavailable") from None
    if allowed is not True:  # a coroutine that was not awaited is truthy too
        raise Refusal("access_denied")


def _refusal_for(connection: ServerConnection, event: str, error: Exception, code: str) -> Refusal:
    error = unwrap(error)
    if isinstance(error, Refusal):
        return error
    if may_log(event, connection.request.remote, traceback=True):
        connection.log.error(event, traceback=traceback_of(error))
    return Refusal(code)
