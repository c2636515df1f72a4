"""Helpers for an application's own endpoints: authenticate, read JSON, answer with errors.

Errors look like those of the administration: ``{"error": {"code": ..., "message": ...}}``::

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

from protocol import Refusal
from trioserver.auth import Authenticator, User
from trioserver.config.extras import needs
from trioserver.http import NEEDS
from trioserver.http.host_server import HostServer
from trioserver.storage import DatabaseUnavailableError

with needs(NEEDS, "starlette"):
    from starlette.requests import Request as HttpRequest
    from starlette.responses import Response

    from trioserver.http import bearer
    from trioserver.http.bearer import api_error
    from trioserver.http.errors import ApiError, unavailable
    from trioserver.http.json_body import read_json

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
    """Return the user whose bearer token is in the Authorization header.

    ``auth`` verifies the token; None takes the authenticator of the `Application` that the endpoint
    belongs to. ``admin``: accept administrators only, see `AdminConfig`.

    Raises `Refusal` with the code that a WebSocket would be closed with, also for a user that is
    blocked; with ``forbidden`` for a user that is not an administrator.
    """
    server: HostServer = request.scope["trioserver"]
    application: Application = request.scope["trioserver.application"]
    auth = auth or application.auth
    if auth is None:
        raise ValueError("no authenticator: pass auth=... to this call or to the Application")
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
    """Record in the audit an authentication that the endpoint has verified itself.

    `authenticate` records what it verifies. For others, call this after success and failure.

    - ``method``: one word, such as "password".
    - ``code``: the error code; None if the authentication succeeded.
    - ``user``: the id of the account; None if there is no such account. Do not pass what the client
      has typed, which may be a password.
    - ``duration``: in seconds.
    """
    server: HostServer = request.scope["trioserver"]
    bearer.record(server, request, method, code=code, user=user, duration=duration)


def refuse(refusal: Refusal, **fields: Any) -> Response:
    """Return the response for a `Refusal`; ``fields`` are added beside the error.

    The status is 401 for a token that is missing or invalid, 403 for a user without the right, or
    404, 429, 500 or 503.
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
"""For Starlette: turn exceptions that an endpoint raises into responses."""
