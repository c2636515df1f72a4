"""A block of a user, a login session, a token, or a resource."""

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
    """Refuses connections and requests that match everything it names.

    - ``user``: a `User`, or the id.
    - ``token_id``: the token's ``jti``.
    - ``sid``: the token's ``sid`` claim, which the tokens of one login share, or the path parameter
      that the route names as ``session_parameter``.
    - ``resource``: path parameters.
    - ``until``: when the block ends, in seconds since the Unix epoch. None: when it is lifted.
    - ``reason``: for operators; it is not sent to clients. ``actor``: who has made the block.

    Raises `ValueError` if it names nothing, if a text is empty, too long or not printable, or if
    ``until`` is not a number.
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
            raise ValueError("the block names nothing: give user, token_id, sid or resource")
        if self.until is not None and math.isnan(self.until):
            raise ValueError("until is not a number")

    @property
    def target(self) -> dict[str, Any]:
        """What it names: the parts that are not None."""
        names = ("user", "token_id", "sid", "resource")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def is_over(self, now: float) -> bool:
        """Whether the block has ended."""
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
        """The error that the client gets.

        It is ``token_revoked`` for a block of one token, because the user can log in again and get
        another one. Otherwise it is ``session_blocked``: an operator must lift the block.
        """
        return Refusal("token_revoked" if self.token_id is not None else "session_blocked")
