"""Who asks over HTTP: a bearer token (RFC 6750), judged as a WebSocket's is."""

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
from trioserver.websocket.request import Request

log: Final = structlog.get_logger("trioserver")

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""

_SECRET_HEADERS: Final = ("authorization", "cookie", "proxy-authorization")


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks. ``token`` is the fingerprint."""

    user: User
    token: str | None
    remote: str


async def judge(
    token: str | None, request: HttpRequest, auth: Authenticator, *, timeout: float
) -> User:
    """What the authenticator says of the token; blocks are not looked at. Raises `Refusal`."""
    # The caller's secrets stay here: an authenticator gets them where it looks for them.
    headers = {
        name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS
    }
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
    """Who asks; an administrator with ``admin``. Each call is an `AuthAttempt`, good or bad.

    ``auth`` None admits nobody. Raises `Refusal`; `ApiError` where there is no ``auth``.
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
            raise unavailable("The application has no authenticator to ask: give it auth=...")
        user = await judge(token, request, auth, timeout=server.config.auth.timeout)
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
    """Tell the observers of an authentication that this request has tried."""
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
    """Whether a user whose token is good may do it: not blocked, and an administrator with
    ``admin``. Raises `Refusal`."""
    server.check_blocks(user)
    config = server.config.admin
    if admin and not user.has_role(config.role, config.role_claim):
        raise Refusal("forbidden", "The token is good, but not an administrator's.")


def remote_of(request: HttpRequest) -> str:
    """The client's "host:port", as in log lines; "" where nobody knows."""
    client = request.client
    if client is None:
        return ""
    host = f"[{client.host}]" if ":" in client.host else client.host
    return f"{host}:{client.port}" if client.port else host


def token_of(request: HttpRequest) -> str:
    """The token. Raises `Refusal`; nothing of the header is quoted."""
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise Refusal("token_invalid", "There is more than one Authorization header.")
    scheme, _, token = (values[0] if values else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal("token_missing", "Send a token: Authorization: Bearer ...")
    if not _TOKEN.fullmatch(token.strip()):
        raise Refusal("token_invalid", "The token is not of the form that RFC 6750 allows.")
    return token.strip()


def api_error(refusal: Refusal, *, realm: str) -> ApiError:
    """Told apart: nobody said who they are, the token is no good, you may not, and not now."""
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
    """What RFC 6750 allows between the quotes."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
