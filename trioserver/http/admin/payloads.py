"""Parameters and bodies of requests, with their bounds. Unknown names are rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request as HttpRequest

from trioserver.http.errors import invalid
from trioserver.telemetry.phases import Phase

Text = Annotated[str, Meta(min_length=1, max_length=256, pattern="^[^\\x00-\\x1f\\x7f]*$")]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Resource = Annotated[dict[Text, Text], Meta(min_length=1, max_length=16)]

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Rejects unknown names: a misspelt filter must not match more connections."""


class Nothing(_Strict):
    """No parameters."""


class ConnectionsQuery(_Strict):
    """``resource`` is name:value; ``after`` is the ``next`` of the previous page."""

    user: Text | None = None
    token_id: Text | None = None
    resource: Text | None = None
    route: Text | None = None
    address: Text | None = None
    phase: Phase | None = None
    after: Text | None = None
    limit: Limit = 100


class BlocksQuery(_Strict):
    """``after`` is the ``next`` of the previous page."""

    user: Text | None = None
    after: Text | None = None
    limit: Limit = 100


class AuditParameters(_Strict):
    """``since`` and ``until`` are RFC 3339; ``before`` is the ``next`` of the previous page."""

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
    """Connections that match everything given; ``message`` is sent to them."""

    user: Text | None = None
    token_id: Text | None = None
    resource: Resource | None = None
    connection: Text | None = None
    message: Text | None = None


class BlockRequest(_Strict):
    """Users that match everything given, ``until`` (RFC 3339), ``for_ms``, or without end."""

    user: Text | None = None
    token_id: Text | None = None
    sid: Text | None = None
    resource: Resource | None = None
    until: Text | None = None
    for_ms: Annotated[int, Meta(ge=1, le=100 * 365 * 86_400_000)] | None = None
    reason: Text | None = None


class Unblock(_Strict):
    """The block with this ``id``, or the blocks that name exactly what is given."""

    id: Text | None = None
    user: Text | None = None
    token_id: Text | None = None
    sid: Text | None = None
    resource: Resource | None = None


class Drain(_Strict):
    """The reason that is sent to the clients."""

    reason: Literal["shutdown", "restart"] = "shutdown"


class InspectToken(_Strict):
    """A token to verify."""

    token: Annotated[str, Meta(min_length=1, max_length=16_384)]


def parameters(request: HttpRequest, kind: type[_Struct]) -> _Struct:
    """Return the query string as a struct. Raises `ApiError`, which quotes no value."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise invalid("The query has a parameter more than once.")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"{error}.") from None


def seconds(name: str, text: str | None) -> float | None:
    """Return an RFC 3339 time as seconds since the Unix epoch. Raises `ApiError`."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be a time in RFC 3339, such as 2026-01-31T12:00:00Z.") from None


def pair(name: str, text: str | None) -> dict[str, str] | None:
    """Return ``name:value`` as a resource. Raises `ApiError`."""
    if text is None:
        return None
    key, colon, value = text.partition(":")
    if not (key and colon and value):
        raise invalid(f"{name} must have the form name:value.")
    return {key: value}


def given(struct: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name in names if (value := getattr(struct, name)) is not None}
