"""What to look for in the audit."""

from __future__ import annotations

from typing import Any, Final

import attrs

from trioserver.auth import User, id_if_given
from trioserver.telemetry.audit.entry import KINDS, OUTCOMES, AuditEntry, storable

MAX_LIMIT: Final = 1000
"""Entries of one page."""

MAX_ID: Final = 2**63 - 1
"""The largest number that SQL can hold."""


def _one_of(names: tuple[str, ...]) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and each not in names:
                raise ValueError(f"{attribute.name} is {each!r}; it is one of {', '.join(names)}")

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
    """Entries that fit everything that is given; None fits all.

    ``since`` (included) and ``until`` (not included) are in seconds since the Unix epoch.
    ``kind`` may be several, in a tuple. ``before`` is the ``id`` of an entry: only those that were
    stored earlier. ``limit`` is from 1 to 1000. Raises `ValueError` with the name, the value and
    what is allowed.
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
    """Entries, newest first. ``next`` is the ``before`` of the next page; None: there is none."""

    entries: tuple[AuditEntry, ...]
    next: int | None
