"""The administration's endpoint that verifies a token and shows what is in it."""

from __future__ import annotations

import attrs
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from protocol import Refusal
from trioserver.auth import Authenticator, Inspection, JWTAuth, User, inspect_token
from trioserver.http.admin import payloads
from trioserver.http.admin.endpoint import read_body, record_action
from trioserver.http.admin.views import inspection_view
from trioserver.http.errors import ok
from trioserver.http.host_server import AdministeredServer


class TokenInspector:
    """``auth`` is the authenticator of the administration."""

    def __init__(self, server: AdministeredServer, auth: Authenticator | None) -> None:
        self._server = server
        self._auth = auth

    async def inspect(self, request: HttpRequest) -> Response:
        """``POST /inspect-token``."""
        wanted = await read_body(self._server, request, payloads.InspectToken)
        auth = self._authenticator_for(wanted.token)
        inspection = inspect_token(wanted.token, auth=auth)
        if auth is not None and inspection.verified:
            inspection = self._with_blocks(inspection, auth.check(wanted.token))
        record_action(self._server, request, "inspect-token", {}, 1)
        return ok(inspection_view(inspection))

    def _authenticator_for(self, token: str) -> JWTAuth | None:
        """Return the authenticator that accepts the token: the administration's, or a route's.

        Parts of the server may have keys and audiences of their own. A token that has expired or
        is not valid yet passed all other checks. If no part accepts the token, the authenticator of
        the administration says why.
        """
        own = self._auth if isinstance(self._auth, JWTAuth) else None
        for auth in (own, *(route.auth for route in self._server.application.routes)):
            if isinstance(auth, JWTAuth):
                refusal = inspect_token(token, auth=auth).refusal
                if refusal is None or refusal.code in ("token_expired", "token_not_yet_valid"):
                    return auth
        return own

    def _with_blocks(self, inspection: Inspection, user: User) -> Inspection:
        """Report a valid token as rejected if its user is blocked."""
        try:
            self._server.check_blocks(user)
        except Refusal as refusal:
            return attrs.evolve(inspection, verified=False, refusal=refusal)
        return inspection
