"""Queries of the audit."""

from __future__ import annotations

from typing import Any, Final

import attrs

from trioserver.auth import User, id_if_given
from trioserver.telemetry.audit.entry import KINDS, OUTCOMES, AuditEntry, storable

MAX_LIMIT: Final = 1000
"""Maximum number of entries of one page."""

MAX_ID: Final = 2**63 - 1
"""The largest integer of SQL."""


def _one_of(names: tuple[str, ...]) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and each not in names:
                raise ValueError(
                    f"{attribute.name} is {each!r}; it must be one of {', '.join(names)}"
                )

    return check


def _within(low: int, high: int) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: int | None) -> None:
        if value is not None and not low <= value <= high:
            raise ValueError(f"{attribute.name} is {value}; it must be from {low} to {high}")

    return check


def _user(user: str | User | None) -> str | None:
    return storable(id_if_given(user))


@attrs.frozen(kw_only=True)
class AuditQuery:
    """Conditions that an entry must meet, all of them. A condition that is None is always met.

    - ``since`` (inclusive), ``until`` (exclusive): in seconds since the Unix epoch.
    - ``kind``: one, or a tuple of several.
    - ``before``: only entries with a lower ``id``. For the next page, pass `AuditPage.next`.
    - ``limit``: the maximum number of entries, from 1 to 1000.
    - The others must be equal to the field of `AuditEntry` with the same name.

    Raises `ValueError` if a value is not allowed.
    """

    since: float | None = None
    until: float | None = None
    kind: str | tuple[str, ...] | None = attrs.field(default=None, validator=_one_of(KINDS))
    outcome: str | None = attrs.field(default=None, validator=_one_of(OUTCOMES))
    code: str | None = attrs.field(default=None, converter=storable)
    user: str | None = attrs.field(default=None, converter=_user)
    address: str | None = attrs.field(default=None, converter=storable)
    route: str | None = attrs.field(default=None, converter=storable)
    method: str | None = attrs.field(default=None, converter=storable)
    before: int | None = attrs.field(default=None, validator=_within(1, MAX_ID))
    limit: int = attrs.field(default=100, validator=_within(1, MAX_LIMIT))


@attrs.frozen(kw_only=True)
class AuditPage:
    """Entries, newest first. ``next`` is the ``before`` of the next page, None on the last one."""

    entries: tuple[AuditEntry, ...]
    next: int | None
