"""Authenticate an HTTP request by its bearer token (RFC 6750), as a WebSocket is."""

from __future__ import annotations

import math
import re
from typing import Final

import attrs
import structlog
import trio
from starlette.requests import Request as HttpRequest

from protocol import Refusal
from trioserver.app.functions import unwrap
from trioserver.auth import Authenticator, Credentials, User
from trioserver.auth.fingerprint import fingerprint
from trioserver.http.errors import ApiError, unavailable
from trioserver.http.host_server import HostServer
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.telemetry.observer import AuthAttempt
from trioserver.websocket.multi_values import Headers
from trioserver.websocket.request import Request

log: Final = structlog.get_logger("trioserver")

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""

_SECRET_HEADERS: Final = ("authorization", "cookie", "proxy-authorization")


@attrs.frozen(kw_only=True)
class Caller:
    """The user who sent a request. ``token`` is the fingerprint of the token."""

    user: User
    token: str | None
    remote: str


async def verify_token(
    token: str | None, request: HttpRequest, auth: Authenticator, *, timeout: float
) -> User:
    """Return the user of the token; blocks are not checked. Raises `Refusal`."""
    # The authenticator gets the token in the credentials, and no other secret of the request.
    headers = Headers(pair for pair in request.headers.items() if pair[0] not in _SECRET_HEADERS)
    asked = Request(
        path=request.url.path,
        headers=headers,
        remote=remote_of(request),
        secure=request.url.scheme == "https",
    )
    try:
        with trio.fail_after(timeout):
            user = await auth(Credentials(source="message", token=token), asked)
    except Exception as error:
        raise _refusal_for(error) from None
    if isinstance(user, Refusal):
        raise user
    return user


async def authenticate(
    server: HostServer, request: HttpRequest, auth: Authenticator | None, *, admin: bool
) -> Caller:
    """Return who sent the request; with ``admin``, only if that is an administrator.

    The observers are told of each call as an `AuthAttempt`. Raises `Refusal`, or `ApiError` if
    ``auth`` is None.
    """
    begun = trio.current_time()
    token: str | None = None
    user: User | None = None

    def note(code: str | None) -> None:
        shown, duration = fingerprint(token), trio.current_time() - begun
        record(server, request, "bearer", code=code, user=user, token=shown, duration=duration)

    try:
        token = token_of(request)
        if auth is None:
            raise unavailable("There is no authenticator: pass auth=... to the Application.")
        user = await verify_token(token, request, auth, timeout=server.config.auth.timeout)
        check(server, user, admin=admin)
    except (Refusal, ApiError) as error:
        note(error.code)
        raise
    note(None)
    return Caller(user=user, token=fingerprint(token), remote=remote_of(request))


def record(
    server: HostServer,
    request: HttpRequest,
    method: str,
    *,
    code: str | None,
    user: User | str | None,
    token: str | None = None,
    duration: float | None = None,
) -> None:
    """Tell the observers of an authentication by this request."""
    known = user if isinstance(user, User) else None
    server.record_auth_attempt(
        AuthAttempt(
            method=method,
            code=code,
            user=user.id if isinstance(user, User) else user,
            remote=remote_of(request),
            path=request.url.path,
            token_id=None if known is None else known.token_id,
            token=token,
            duration=duration,
        )
    )


def check(server: HostServer, user: User, *, admin: bool) -> None:
    """Raise `Refusal` for a user that is blocked and, with ``admin``, for one that is not an
    administrator."""
    server.check_blocks(user)
    config = server.config.admin
    if admin and not user.has_role(config.role, config.role_claim):
        raise Refusal("forbidden", "The token is valid, but its user is not an administrator.")


def remote_of(request: HttpRequest) -> str:
    """Return the client's "host:port", as in log lines; "" if it is unknown."""
    client = request.client
    if client is None:
        return ""
    host = f"[{client.host}]" if ":" in client.host else client.host
    return f"{host}:{client.port}" if client.port else host


def token_of(request: HttpRequest) -> str:
    """Return the token. Raises `Refusal`, whose message quotes nothing of the header."""
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise Refusal("token_invalid", "There is more than one Authorization header.")
    scheme, _, token = (values[0] if values else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal("token_missing", "Send a token: Authorization: Bearer ...")
    if not _TOKEN.fullmatch(token.strip()):
        raise Refusal("token_invalid", "The token has characters that RFC 6750 does not allow.")
    return token.strip()


def api_error(refusal: Refusal, *, realm: str) -> ApiError:
    """Return the response for a code: 401 for the token, 403 for the user, 503 for the server."""
    challenge = f'Bearer realm="{realm}"'
    match refusal.code:
        case "token_missing":
            return ApiError(401, refusal.code, refusal.message, {"WWW-Authenticate": challenge})
        case "forbidden":
            challenge += ', error="insufficient_scope"'
            return ApiError(403, refusal.code, refusal.message, {"WWW-Authenticate": challenge})
        case "session_blocked" | "access_denied":
            return ApiError(403, refusal.code, refusal.message)
        case "not_found":
            return ApiError(404, refusal.code, refusal.message)
        case "internal_error":
            return ApiError(500, refusal.code, refusal.message)
        case "unavailable" | "server_busy":
            return unavailable(refusal.message)
        case "rate_limited":
            seconds = math.ceil(refusal.retry_after or 1.0)
            return ApiError(429, refusal.code, refusal.message, {"Retry-After": str(seconds)})
    challenge += f', error="invalid_token", error_description="{_quotable(refusal.message)}"'
    return ApiError(401, refusal.code, refusal.message, {"WWW-Authenticate": challenge})


def _refusal_for(error: Exception) -> Refusal:
    error = unwrap(error)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, trio.TooSlowError):
        return Refusal("unavailable")
    if may_log("authenticator_failed", traceback=True):
        log.error("authenticator_failed", traceback=traceback_of(error))
    return Refusal("internal_error")


def _quotable(text: str) -> str:
    """Replace characters that RFC 6750 does not allow between the quotes."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
