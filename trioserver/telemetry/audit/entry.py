"""A row of the audit."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from protocol import instant

Kind: TypeAlias = Literal["attempt", "refresh", "admin_action", "loss", "suppressed"]
Outcome: TypeAlias = Literal[
    "accepted", "refreshed", "refused", "client_disconnected", "done", "lost"
]

KINDS: Final[tuple[str, ...]] = get_args(Kind)
OUTCOMES: Final[tuple[str, ...]] = get_args(Outcome)

MAX_TEXT: Final = 256
"""Characters of a column, so that what clients choose does not fill the disk."""


@attrs.frozen(kw_only=True)
class AuditEntry:
    """One row of the audit.

    - ``id``: the number of the row; later rows have higher ones. 0 until it is stored.
    - ``at``: when it ended, in seconds since the Unix epoch.
    - ``kind``:
      ``attempt``: an authentication. ``refresh``: a new token on a connection that was ready.
      ``admin_action``: an administrative action.
      ``loss``: ``affected`` rows were lost.
      ``suppressed``: ``affected`` rows like this one were not recorded, because they were more than
      one address, one user, or all together may cause; ``address`` or ``user`` says whose they
      were, and if neither is set, they are of several.
    - ``method``: how an attempt was made: ``websocket``, ``password``, ``mpin``, ``bearer``,
      ``origin`` (a page that may not connect; ``target`` is its origin), or the application's word.
    - ``outcome``: ``accepted``, ``refreshed``, ``refused``, ``client_disconnected`` (before the
      attempt was decided), ``done`` (an action) or ``lost``.
    - ``code``: the error code, if it was refused.
    - ``address``: without the port. ``route``: as registered; over HTTP, the path.
    - ``user``: the user's id; of an action, the administrator's. None if it is not known.
    - ``token_id``: the token's ``jti``. ``token``: its fingerprint.
    - ``duration``: in seconds.
    - ``connection``: the id of the WebSocket connection.
    - ``action``, ``target``, ``affected``: its name, to whom or what it was done, and how many it
      applied to.
    """

    at: float
    kind: Kind
    outcome: Outcome
    code: str | None = None
    address: str | None = None
    route: str | None = None
    user: str | None = None
    token_id: str | None = None
    token: str | None = None
    duration: float | None = None
    connection: str | None = None
    action: str | None = None
    target: str | None = None
    affected: int | None = None
    method: str | None = None
    id: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON types: the instant as RFC 3339, the duration in ms, and ``target`` as
        an object."""
        fields = attrs.asdict(self) | {"at": instant(self.at)}
        duration = fields.pop("duration")
        fields["duration_ms"] = None if duration is None else round(duration * 1000, 3)
        if self.target is not None:
            with suppress(ValueError):  # it was truncated, and is shown as it is
                fields["target"] = json.loads(self.target)
        return fields


def storable(value: str | None, max_characters: int = MAX_TEXT) -> str | None:
    """Return a text as any database can store it: no NUL, no lone surrogate, and truncated."""
    if value is None:
        return None
    if len(value) > max_characters:
        value = value[: max_characters - 1] + "…"
    return value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def in_ascii(entry: AuditEntry) -> AuditEntry:
    """Return the entry with all text in ASCII, for a database with another encoding than UTF-8."""
    texts: dict[str, Any] = {
        name: value.encode("ascii", "backslashreplace").decode()
        for name, value in attrs.asdict(entry).items()
        if isinstance(value, str)
    }
    return attrs.evolve(entry, **texts)
