"""For an application's own endpoints: who asks, what they send, and how to say no.

They answer as the administration does: errors are ``{"error": {"code": ..., "message": ...}}``::

    async def rename(request: Request) -> Response:
        user = await authenticate(request)
        name = await read_json(request, Name)
        ...

    application.http = Starlette(
        routes=[Route("/name", rename, methods=["POST"])], exception_handlers=EXCEPTION_HANDLERS
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from protocol import Refusal
from trioserver.auth import Authenticator, User
from trioserver.http import bearer
from trioserver.http.bearer import api_error
from trioserver.http.bodies import read_json
from trioserver.http.errors import ApiError, unavailable
from trioserver.http.host_server import HostServer
from trioserver.storage import DatabaseUnavailableError

if TYPE_CHECKING:
    from trioserver.app.application import Application

__all__ = [
    "EXCEPTION_HANDLERS",
    "ApiError",
    "authenticate",
    "read_json",
    "record_attempt",
    "refuse",
]


async def authenticate(
    request: HttpRequest, *, auth: Authenticator | None = None, admin: bool = False
) -> User:
    """The user whose token is in the Authorization header, where no block keeps them out.

    ``auth`` judges the token; None takes that of the `Application` whose endpoint this is. With
    ``admin``, only an administrator will do: see `AdminConfig`. Raises `Refusal`, with the codes
    that a WebSocket is closed with, and ``forbidden`` for who is no administrator.
    """
    server: HostServer = request.scope["trioserver"]
    application: Application = request.scope["trioserver.application"]
    auth = auth or application.auth
    if auth is None:
        raise ValueError("give the application an authenticator, or this call: auth=...")
    caller = await bearer.authenticate(server, request, auth, admin=admin)
    return caller.user


def record_attempt(
    request: HttpRequest,
    method: str,
    *,
    code: str | None = None,
    user: str | None = None,
    duration: float | None = None,
) -> None:
    """Record an authentication that the endpoint itself has verified, good or bad, in the audit.

    ``method`` is a word: "password", "mpin". ``code`` is the error's, None where it succeeded.
    ``user`` is the id of the account that was tried, None where there is no such account: do not
    give what was typed, which may be a password. ``duration`` is in seconds. Tokens that
    `authenticate` looks at are recorded already.
    """
    server: HostServer = request.scope["trioserver"]
    bearer.record(server, request, method, code=code, user=user, duration=duration)


def refuse(refusal: Refusal, **fields: Any) -> Response:
    """The answer to a request that is refused; ``fields`` stand beside the error.

    401 for a token that is none or no good, 403 for who may not, 404, 429, 500, 503.
    """
    return api_error(refusal, realm="trioserver").respond(**fields)


async def _refused(request: HttpRequest, error: Any) -> Response:
    return refuse(error)


async def _failed(request: HttpRequest, error: Any) -> Response:
    response: Response = error.response
    return response


async def _unavailable(request: HttpRequest, error: Any) -> Response:
    return unavailable("The database does not answer.").response


EXCEPTION_HANDLERS: Final[Mapping[Any, Any]] = {
    Refusal: _refused,
    ApiError: _failed,
    DatabaseUnavailableError: _unavailable,
}
"""For Starlette: what an endpoint raises becomes its answer."""
