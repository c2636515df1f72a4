"""What requests hold: parameters and bodies, with their bounds. Unknown names are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request as HttpRequest

from trioserver.http.errors import invalid

Text = Annotated[str, Meta(min_length=1, max_length=256, pattern="^[^\\x00-\\x1f\\x7f]*$")]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Resource = Annotated[dict[Text, Text], Meta(min_length=1, max_length=16)]

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A misspelt name must not widen what is met."""


class Nothing(_Strict):
    """No parameters at all."""


class ConnectionsQuery(_Strict):
    """``resource`` is name:value; ``after`` the ``next`` of the page before."""

    user: Text | None = None
    token_id: Text | None = None
    resource: Text | None = None
    route: Text | None = None
    address: Text | None = None
    phase: Text | None = None
    after: Text | None = None
    limit: Limit = 100


class BlocksQuery(_Strict):
    """``after`` is the ``next`` of the page before."""

    user: Text | None = None
    after: Text | None = None
    limit: Limit = 100


class AuditParameters(_Strict):
    """``since`` and ``until`` are RFC 3339; ``before`` is the ``next`` of the page before."""

    since: Text | None = None
    until: Text | None = None
    kind: Text | None = None
    outcome: Text | None = None
    code: Text | None = None
    user: Text | None = None
    address: Text | None = None
    route: Text | None = None
    method: Text | None = None
    before: int | None = None
    limit: Limit = 100


class Disconnect(_Strict):
    """Whoever fits everything given; ``message`` is told to them."""

    user: Text | None = None
    token_id: Text | None = None
    resource: Resource | None = None
    connection: Text | None = None
    message: Text | None = None


class BlockRequest(_Strict):
    """Whoever fits everything given, ``until`` (RFC 3339) or for ``for_ms``, or for good."""

    user: Text | None = None
    token_id: Text | None = None
    session: Text | None = None
    resource: Resource | None = None
    until: Text | None = None
    for_ms: Annotated[int, Meta(ge=1, le=100 * 365 * 86_400_000)] | None = None
    reason: Text | None = None


class Unblock(_Strict):
    """The block with this ``id``, or those that name exactly what is given."""

    id: Text | None = None
    user: Text | None = None
    token_id: Text | None = None
    session: Text | None = None
    resource: Resource | None = None


class Drain(_Strict):
    """What the clients are told."""

    reason: Literal["shutdown", "restart"] = "shutdown"


class InspectToken(_Strict):
    """Any token."""

    token: Annotated[str, Meta(min_length=1, max_length=16_384)]


def parameters(request: HttpRequest, kind: type[_Struct]) -> _Struct:
    """The query string as a struct. Raises `ApiError`; nothing of a value is quoted."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise invalid("A parameter is given more than once.")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from None


def seconds(name: str, text: str | None) -> float | None:
    """RFC 3339 as seconds since the Unix epoch. Raises `ApiError`."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be an instant such as 2026-01-31T12:00:00Z.") from None


def pair(name: str, text: str | None) -> dict[str, str] | None:
    """``name:value`` as a resource. Raises `ApiError`."""
    if text is None:
        return None
    key, colon, value = text.partition(":")
    if not (key and colon and value):
        raise invalid(f"{name} must be name:value.")
    return {key: value}


def given(struct: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Those fields that are not None."""
    return {name: value for name in names if (value := getattr(struct, name)) is not None}
