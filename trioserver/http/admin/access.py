"""Who may administer: a bearer token (RFC 6750) with the role, in the Authorization header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
from starlette.requests import Request as HttpRequest

from protocol import Refusal
from trioserver.auth import Authenticator, User
from trioserver.auth.fingerprint import fingerprint
from trioserver.http.bearer import api_error, check, judge, remote_of, token_of
from trioserver.http.errors import ApiError, unavailable

if TYPE_CHECKING:
    from trioserver.server import Server

_REALM: Final = "administration"


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

    async def admit(self, request: HttpRequest) -> Caller:
        """The administrator. Raises `Denied`."""
        remote = remote_of(request)
        token: str | None = None
        user: User | None = None
        try:
            token = token_of(request)
            user = await self._authenticate(token, request)
            check(self._server, user, admin=True)
        except (Refusal, ApiError) as error:
            answer = error if isinstance(error, ApiError) else api_error(error, realm=_REALM)
            raise Denied(
                answer, Caller(user=user, token=fingerprint(token), remote=remote)
            ) from None
        return Caller(user=user, token=fingerprint(token), remote=remote)

    async def _authenticate(self, token: str, request: HttpRequest) -> User:
        if self._auth is None:
            raise unavailable("The application has no authenticator to ask: give it auth=...")
        timeout = self._server.config.auth.timeout
        return await judge(token, request, self._auth, timeout=timeout)


class Denied(Exception):
    """A request that is not let in; ``caller`` is what is known of who made it."""

    def __init__(self, error: ApiError, caller: Caller) -> None:
        super().__init__(error.code)
        self.error = error
        self.caller = caller
