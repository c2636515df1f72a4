"""Who may administer: a bearer token (RFC 6750) with the role, in the Authorization header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.requests import Request as HttpRequest

from protocol import Refusal
from trioserver.auth import Authenticator
from trioserver.http.bearer import Caller, api_error, authenticate

if TYPE_CHECKING:
    from trioserver.server.server import Server

_REALM: Final = "administration"


class Gate:
    """Lets administrators in. ``auth`` judges tokens; None lets in nobody."""

    def __init__(self, server: Server, auth: Authenticator | None) -> None:
        self._server = server
        self._auth = auth

    async def admit(self, request: HttpRequest) -> Caller:
        """The administrator. Raises `ApiError`; good or bad, the audit has it."""
        try:
            return await authenticate(self._server, request, self._auth, admin=True)
        except Refusal as error:
            raise api_error(error, realm=_REALM) from None
