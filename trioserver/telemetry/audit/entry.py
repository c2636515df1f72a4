"""A row of the audit, and how what happens in a server becomes one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import attrs

from protocol import instant
from trioserver.peers.addresses import host_of
from trioserver.telemetry.observer import CLIENT_DISCONNECTED, AdminAction, AuthAttempt, Rejection

Kind: TypeAlias = Literal["attempt", "refresh", "act", "loss", "suppressed"]
Outcome: TypeAlias = Literal[
    "accepted", "refreshed", "refused", "client_disconnected", "done", "lost"
]

KINDS: Final = ("attempt", "refresh", "act", "loss", "suppressed")
OUTCOMES: Final = ("accepted", "refreshed", "refused", CLIENT_DISCONNECTED, "done", "lost")

_MAX_TEXT: Final = 256
"""Characters of a column. What peers choose must not fill the disk any faster than that."""

_MAX_PATH: Final = 128
"""Characters of a path over HTTP, which anybody may choose."""

_MAX_TARGET: Final = 2048


@attrs.frozen(kw_only=True)
class AuditEntry:
    """One row.

    - ``at``: when it ended, in seconds since the Unix epoch.
    - ``kind``: an authentication (``attempt``, or ``refresh`` on a connection that was ready), an
      administrative ``act``, a ``loss``: rows that could not be kept, ``affected`` of them, or
      ``suppressed``: rows like this one, ``affected`` of them, that were more than one address,
      one user or all together may cause. ``address`` or ``user`` says from whom; neither: several.
    - ``method``: how an attempt was made: ``websocket``, ``password``, ``mpin``, ``bearer``,
      ``origin`` (a page that may not connect; ``target`` is its origin), or the application's word.
    - ``outcome``: ``accepted``, ``refreshed``, ``refused``, ``client_disconnected`` (before the
      attempt was decided), ``done`` (an act), ``lost``; ``code`` is the error's, of a refusal.
    - ``address``: without the port. ``route``: as it was registered; over HTTP, the path.
    - ``user``: the user's id, of an act the administrator's; None where nobody is known.
    - ``token_id``: the token's ``jti``. ``token``: its `fingerprint`.
    - ``duration``: in seconds.
    - ``act``, ``target``, ``affected``: what was done, to whom, and how many were met.

    ``id`` is the row's number, growing, and 0 until it is stored.
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
    act: str | None = None
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


def of_attempt(attempt: AuthAttempt, at: float) -> AuditEntry:
    """The row for an authentication. ``route`` is the path over HTTP."""
    outcome, code = _outcome(attempt)
    connection = attempt.connection
    return AuditEntry(
        at=at,
        kind="refresh" if attempt.refresh else "attempt",
        outcome=outcome,
        code=code,
        address=_text(host_of(attempt.remote) or None),
        route=_text(attempt.path, _MAX_PATH)
        if connection is None
        else _text(connection.route.path),
        user=_text(attempt.user),
        token_id=_text(attempt.token_id),
        token=attempt.token,
        duration=attempt.duration,
        connection=None if connection is None else connection.id,
        method=_text(attempt.method),
    )


def of_rejected_origin(rejection: Rejection, at: float) -> AuditEntry:
    """The row for a page that may not connect."""
    return AuditEntry(
        at=at,
        kind="attempt",
        outcome="refused",
        code=rejection.code,
        address=_text(host_of(rejection.remote) or None),
        route=_text(rejection.path, _MAX_PATH),
        target=_text(json.dumps({"origin": rejection.origin}), _MAX_TARGET),
        method="origin",
    )


def of_admin_action(action: AdminAction, at: float) -> AuditEntry:
    """The row for an administrative action."""
    return AuditEntry(
        at=at,
        kind="act",
        outcome="done" if action.code is None else "refused",
        code=_text(action.code),
        address=_text(host_of(action.remote) or None),
        route=_text(action.path),
        user=_text(action.actor or None),
        token_id=_text(action.token_id),
        token=action.token,
        duration=action.duration,
        act=_text(action.name),
        target=_text(json.dumps(dict(action.target)), _MAX_TARGET) if action.target else None,
        affected=action.affected,
    )


def plainer(entry: AuditEntry) -> AuditEntry:
    """All text in ASCII: for a database that is in another encoding than UTF-8."""
    texts: dict[str, Any] = {
        name: value.encode("ascii", "backslashreplace").decode()
        for name, value in attrs.asdict(entry).items()
        if isinstance(value, str)
    }
    return attrs.evolve(entry, **texts)


def _outcome(attempt: AuthAttempt) -> tuple[Outcome, str | None]:
    if attempt.code is None:
        return ("refreshed" if attempt.refresh else "accepted"), None
    if attempt.code == CLIENT_DISCONNECTED and attempt.connection is not None:
        return CLIENT_DISCONNECTED, None
    return "refused", _text(attempt.code)


def storable(value: str | None) -> str | None:
    """The form in which a text is stored, and looked for."""
    return _text(value)


def _text(value: str | None, most: int = _MAX_TEXT) -> str | None:
    """What any database takes: no NUL, no half of a surrogate pair, and not too much of it."""
    if value is None:
        return None
    if len(value) > most:
        value = value[: most - 1] + "…"
    return value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
