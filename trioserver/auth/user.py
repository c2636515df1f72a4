"""Who is on the other end, and what they showed to prove it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from protocol import Refusal
from trioserver.auth.claims import claim_at, scopes_of, texts_at
from trioserver.websocket.request import Request


@attrs.frozen(kw_only=True)
class User:
    """An authenticated user: the token's subject, and the rest of its claims.

    ``expires_at`` is in seconds since the Unix epoch, None where the proof does not expire.
    ``token_id`` is the token's ``jti``, for revocation. ``public`` is what `ready` tells the
    client about the user beside the id.
    """

    id: str
    claims: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    expires_at: float | None = None
    token_id: str | None = None
    public: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def claim(self, path: str) -> Any:
        """Return the claim of this name, or where a dotted path leads, such as
        ``realm_access.roles``; None where there is none."""
        return claim_at(self.claims, path)

    def has_role(self, role: str, path: str = "roles") -> bool:
        """Whether the claim at ``path`` is this text, or a list that holds it."""
        return role in texts_at(self.claims, path)

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that the token grants, of ``scope`` or ``scp``, a text or a list."""
        return scopes_of(self.claims)


def id_of(user: str | User) -> str:
    """The id of a user, who may be named by it. Raises `TypeError` for anything else."""
    if isinstance(user, User):
        return user.id
    if isinstance(user, str):
        return user
    raise TypeError(f"a user is a User or a user's id, a str; this is a {type(user).__name__}")


def id_if_given(user: str | User | None) -> str | None:
    """As `id_of`; None stays None."""
    return None if user is None else id_of(user)


@attrs.frozen(kw_only=True)
class Credentials:
    """What the client showed: the first message, or the token in the query string.

    ``fields`` is the whole first message as plain JSON types, empty for a query-string token.
    """

    source: Literal["message", "query"]
    token: str | None = attrs.field(default=None, repr=False)
    fields: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


Authenticator: TypeAlias = Callable[[Credentials, Request], Awaitable[User | Refusal]]
"""Returns the user, or returns or raises a `protocol.Refusal`. Any other exception is
``internal_error``. It is cancelled when the client leaves or the deadline passes.

It may be a `Component`, which has background work, files to reload, or a say in the addresses.
"""

Authorizer: TypeAlias = Callable[[User, Mapping[str, str]], Awaitable[bool]]
"""An async function ``(user, resource)``: whether the user may use the resource, which is given by
the route's path parameters. If it returns False, the client is refused with ``access_denied``.

Raising a `Refusal` refuses with that code. Any other exception refuses with ``unavailable``: a
look-up that fails admits nobody. It may be a `Component`."""
