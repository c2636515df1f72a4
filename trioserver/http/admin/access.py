"""Who may administer: a bearer token (RFC 6750) with the role, in the Authorization header."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio
from starlette.requests import Request as HttpRequest

from protocol import Refusal
from trioserver.auth import Authenticator, Credentials, User
from trioserver.auth.fingerprint import fingerprint
from trioserver.config import AdminConfig
from trioserver.handlers import unwrap
from trioserver.http.admin.errors import ApiError, unavailable
from trioserver.websocket.request import Request

if TYPE_CHECKING:
    from trioserver.server import Server

log: Final = structlog.get_logger("trioserver")

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""

_SECRET_HEADERS: Final = ("authorization", "cookie", "proxy-authorization")

_REALM: Final = 'Bearer realm="administration"'


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks, as far as that is known. ``token`` is the fingerprint."""

    user: User | None
    token: str | None
    remote: str


class Gate:
    """Lets administrators in. ``auth`` judges tokens; None lets in nobody."""

    def __init__(self, server: Server, auth: Authenticator | None) -> None:
        self._server = server
        self._auth = auth
        self._config: AdminConfig = server.config.admin

    async def admit(self, request: HttpRequest) -> Caller:
        """The administrator. Raises `Denied`."""
        remote = _remote(request)
        token: str | None = None
        user: User | None = None
        try:
            token = _bearer(request)
            user = await self._authenticate(token, request, remote)
            self._server._blocks.check(user)
            if not has_role(user, self._config):
                raise _no_role()
        except (Refusal, ApiError) as error:
            answer = error if isinstance(error, ApiError) else _answer(error)
            raise Denied(
                answer, Caller(user=user, token=fingerprint(token), remote=remote)
            ) from None
        return Caller(user=user, token=fingerprint(token), remote=remote)

    async def _authenticate(self, token: str, request: HttpRequest, remote: str) -> User:
        if self._auth is None:
            raise unavailable("The application has no authenticator to ask: give it auth=...")
        credentials = Credentials(source="message", token=token)
        # The caller's secrets stay here: an authenticator gets them where it looks for them.
        headers = {
            name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS
        }
        asked = Request(
            path=request.url.path,
            headers=headers,
            remote=remote,
            secure=request.url.scheme == "https",
        )
        try:
            with trio.fail_after(self._server.config.auth.timeout):
                user = await self._auth(credentials, asked)
        except Exception as error:
            raise _refusal_for(error) from None
        if isinstance(user, Refusal):
            raise user
        return user


class Denied(Exception):
    """A request that is not let in; ``caller`` is what is known of who made it."""

    def __init__(self, error: ApiError, caller: Caller) -> None:
        super().__init__(error.code)
        self.error = error
        self.caller = caller


def has_role(user: User, config: AdminConfig) -> bool:
    """Whether the claim is the role, or a list with it."""
    value: Any = user.claims.get(config.role_claim)
    if isinstance(value, list | tuple | set | frozenset):
        return any(isinstance(role, str) and role == config.role for role in value)
    return isinstance(value, str) and value == config.role


def _remote(request: HttpRequest) -> str:
    client = request.client
    if client is None:
        return ""
    host = f"[{client.host}]" if ":" in client.host else client.host
    return f"{host}:{client.port}" if client.port else host


def _bearer(request: HttpRequest) -> str:
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise _bad_token("There is more than one Authorization header.", code="token_invalid")
    scheme, _, token = (values[0] if values else "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal("token_missing", "Send a token: Authorization: Bearer ...")
    if not _TOKEN.fullmatch(token.strip()):
        raise _bad_token("The token is not of the form that RFC 6750 allows.", code="token_invalid")
    return token.strip()


def _refusal_for(error: Exception) -> Refusal:
    error = unwrap(error)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, trio.TooSlowError):
        return Refusal("unavailable")
    log.error("authenticator_failed", traceback="".join(traceback.format_exception(error)))
    return Refusal("internal_error")


def _answer(refusal: Refusal) -> ApiError:
    """Told apart: nobody said who they are, the token is no good, you may not, and not now."""
    match refusal.code:
        case "token_missing":
            return ApiError(401, refusal.code, refusal.message, {"WWW-Authenticate": _REALM})
        case "session_blocked" | "access_denied":
            return ApiError(403, refusal.code, refusal.message)
        case "internal_error":
            return ApiError(500, refusal.code, refusal.message)
        case "unavailable" | "server_busy":
            return unavailable(refusal.message)
        case "rate_limited":
            return ApiError(429, refusal.code, refusal.message, {"Retry-After": "1"})
    return _bad_token(refusal.message, code=refusal.code)


def _bad_token(message: str, *, code: str) -> ApiError:
    challenge = f'{_REALM}, error="invalid_token", error_description="{_quotable(message)}"'
    return ApiError(401, code, message, {"WWW-Authenticate": challenge})


def _no_role() -> ApiError:
    challenge = f'{_REALM}, error="insufficient_scope"'
    message = "The token is good, but not an administrator's."
    return ApiError(403, "forbidden", message, {"WWW-Authenticate": challenge})


def _quotable(text: str) -> str:
    """What RFC 6750 allows between the quotes."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
