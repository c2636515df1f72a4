"""The authenticated user, the credentials of a client, and the functions that check them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from protocol import Refusal
from trioserver.auth.claims import claim_at, scopes_of, texts_at
from trioserver.websocket.request import Request


@attrs.frozen(kw_only=True)
class User:
    """An authenticated user.

    - ``id``: the token's subject. ``claims``: all of its claims.
    - ``expires_at``: when the token expires, in seconds since the Unix epoch; None means never.
    - ``token_id``: the token's ``jti``, for revocation.
    - ``public``: what `ready` contains about the user in addition to the id.
    """

    id: str
    claims: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    expires_at: float | None = None
    token_id: str | None = None
    public: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def claim(self, path: str) -> Any:
        """Return the claim with this name or dotted path (``realm_access.roles``), or None."""
        return claim_at(self.claims, path)

    def has_role(self, role: str, path: str = "roles") -> bool:
        """Whether the claim at ``path`` is this string, or a list that contains it."""
        return role in texts_at(self.claims, path)

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that the token grants: its claim ``scope`` or ``scp``, a string or a list."""
        return scopes_of(self.claims)


def id_of(user: str | User) -> str:
    """Return the id of a `User`, or the id itself. Raises `TypeError` for anything else."""
    if isinstance(user, User):
        return user.id
    if isinstance(user, str):
        return user
    raise TypeError(f"user must be a User or a user's id, a str, not {type(user).__name__}")


def id_if_given(user: str | User | None) -> str | None:
    """Return None for None, otherwise what `id_of` returns."""
    return None if user is None else id_of(user)


@attrs.frozen(kw_only=True)
class Credentials:
    """What the client sent to authenticate: its first message, or a token in the query string.

    ``fields`` is the whole first message as plain JSON types; it is empty for a query-string token.
    """

    source: Literal["message", "query"]
    token: str | None = attrs.field(default=None, repr=False)
    fields: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


Authenticator: TypeAlias = Callable[[Credentials, Request], Awaitable[User | Refusal]]
"""An async function ``(credentials, request)`` that returns the user, or returns or raises a
`protocol.Refusal`. Any other exception refuses the client with ``internal_error``. It is cancelled
when the client disconnects or the deadline passes.

It may be a `Component`, which can have background work and files to reload.
"""

Authorizer: TypeAlias = Callable[[User, Mapping[str, str]], Awaitable[bool]]
"""An async function ``(user, resource)``: whether the user may use the resource, which is given by
the route's path parameters. If it returns False, the client is refused with ``access_denied``.

Raising a `Refusal` refuses with that code. Any other exception refuses with ``unavailable``: a
look-up that fails admits nobody. It may be a `Component`."""
