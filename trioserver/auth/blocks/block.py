"""Who is kept out: a user, a session, a token, or a resource."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any, Final

import attrs

from protocol import Refusal
from trioserver.auth import User, id_if_given

_MAX_TEXT: Final = 256


def _short(_: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and not (value and len(value) <= _MAX_TEXT and value.isprintable()):
        raise ValueError(f"{attribute.name} must be printable text of 1 to {_MAX_TEXT} characters")


def _frozen(resource: Mapping[str, str] | None) -> Mapping[str, str] | None:
    return None if resource is None else dict(resource)


def _texts(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, str] | None) -> None:
    if value is None:
        return
    parts = [*value.keys(), *value.values()]
    if not parts or len(parts) > 2 * 16:
        raise ValueError(f"{attribute.name} must name from 1 to 16 parameters")
    for part in parts:
        _short(None, attribute, part)


@attrs.frozen(kw_only=True, eq=False)
class Block:
    """Fits when everything it names does; it names something.

    - ``user``: a `User`, or the id. ``token_id``: the token's ``jti``. ``sid``: its ``sid``
      claim, which the tokens of one login share, or the path parameter that the route names as
      ``session_parameter``.
      ``resource``: path parameters.
    - ``until``: in seconds since the Unix epoch; None is until it is lifted.
    - ``reason``: for operators; clients are not told. ``actor``: who has blocked.

    Raises `ValueError` where it names nothing, or a text that is empty, long or not printable, and
    for an ``until`` that is not a number.
    """

    user: str | None = attrs.field(default=None, converter=id_if_given, validator=_short)
    token_id: str | None = attrs.field(default=None, validator=_short)
    sid: str | None = attrs.field(default=None, validator=_short)
    resource: Mapping[str, str] | None = attrs.field(
        default=None, converter=_frozen, validator=_texts
    )
    until: float | None = None
    reason: str | None = attrs.field(default=None, validator=_short)
    actor: str | None = attrs.field(default=None, converter=id_if_given, validator=_short)
    created_at: float = 0.0
    id: str = attrs.field(factory=lambda: uuid.uuid4().hex)

    def __attrs_post_init__(self) -> None:
        if not self.target:
            raise ValueError("say whom to block: user, token_id, sid or resource")
        if self.until is not None and math.isnan(self.until):
            raise ValueError("until is not a number")

    @property
    def target(self) -> dict[str, Any]:
        """What it names."""
        names = ("user", "token_id", "sid", "resource")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def is_over(self, now: float) -> bool:
        """Whether its time has passed."""
        return self.until is not None and now >= self.until

    def fits(self, user: User, resource: Mapping[str, str], sid: str | None = None) -> bool:
        """Whether it applies to this user at this resource, or in this login session."""
        return (
            (self.user is None or self.user == user.id)
            and (self.token_id is None or self.token_id == user.token_id)
            and (self.sid is None or self.sid in (user.claims.get("sid"), sid))
            and (self.resource is None or self.resource.items() <= resource.items())
        )

    @property
    def refusal(self) -> Refusal:
        """What the client is told.

        A block of one token is ``token_revoked``: logging in again gets another, which is good.
        Anything else is ``session_blocked``: logging in again does not help, an operator has to
        lift it.
        """
        return Refusal("token_revoked" if self.token_id is not None else "session_blocked")
