"""Who may administer: a bearer token (RFC 6750) with the role, in the Authorization header."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request as HttpRequest

from protocol import Refusal
from trioserver.auth import Authenticator
from trioserver.http.bearer import Caller, api_error, authenticate
from trioserver.http.host_server import HostServer

_REALM: Final = "administration"


async def require_admin(
    server: HostServer, request: HttpRequest, auth: Authenticator | None
) -> Caller:
    """Return the administrator who sent the request. Raises `ApiError`.

    ``auth`` verifies the token; None rejects every request. The audit records both outcomes.
    """
    try:
        return await authenticate(server, request, auth, admin=True)
    except Refusal as error:
        raise api_error(error, realm=_REALM) from None
