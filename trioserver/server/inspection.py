"""Reports about connections, without anything of what they send and receive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import trio

from trioserver.app.connection import ConnectionStatistics
from trioserver.auth import id_if_given
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.paths import masked_parameters
from trioserver.peers.addresses import host_of
from trioserver.server.registry import matches
from trioserver.telemetry.phases import Phase

_MAX_TASKS: Final = 200
_MAX_DEPTH: Final = 8


@attrs.frozen
class TaskReport:
    """A task, and those in its nurseries. ``name``: the name of its function."""

    name: str
    children: tuple[TaskReport, ...]


@attrs.frozen(kw_only=True)
class ConnectionReport:
    """A snapshot of a connection.

    - ``phase``: "handshake", "awaiting_auth", "authenticating", "authorizing" (until `ready` has
      been sent), "ready" or "closing" (the error and the Close frame are being sent). See `Phase`.
    - ``user``, ``token_id``, ``expires_at`` (seconds since the Unix epoch): None until known.
    - ``age``: in seconds.
    - ``tasks``: the tasks in its nursery, at most 200.
    - ``recent``: the types of its latest messages, oldest first. Types that its route does not
      have are left out.
    """

    id: str
    phase: Phase
    user: str | None
    token_id: str | None
    expires_at: float | None
    route: str
    resource: Mapping[str, str]
    address: str
    age: float
    statistics: ConnectionStatistics
    recent: tuple[str, ...]
    tasks: tuple[TaskReport, ...]


@attrs.frozen(kw_only=True)
class ConnectionFilter:
    """Selects the connections that match everything given; None matches all.

    - ``user``: a `User` or an id. ``resource`` matches if all its parameters do.
    - ``address``: without the port.
    - ``after``: the id of a connection; only connections with greater ids match.

    Raises `ValueError` for a ``phase`` that does not exist.
    """

    user: str | None = attrs.field(default=None, converter=id_if_given)
    token_id: str | None = None
    resource: Mapping[str, str] | None = None
    route: str | None = None
    address: str | None = None
    phase: Phase | None = attrs.field(default=None, converter=attrs.converters.optional(Phase))
    after: str | None = None

    def fits(self, connection: ServerConnection) -> bool:
        """Whether a connection matches. This is cheap, because it is called for thousands."""
        return (
            (self.after is None or connection.id > self.after)
            and (self.phase is None or self.phase == connection.phases.current)
            and (self.route is None or self.route == connection.route.path)
            and (self.address is None or self.address == host_of(connection.request.remote))
            and matches(connection, self.user, self.token_id, self.resource, None)
        )


def report(connection: ServerConnection) -> ConnectionReport:
    """Make a report about a connection."""
    user, nursery = connection.user, connection.nursery
    return ConnectionReport(
        id=connection.id,
        phase=connection.phases.current,
        user=None if user is None else user.id,
        token_id=None if user is None else user.token_id,
        expires_at=None if user is None else user.expires_at,
        route=connection.route.path,
        resource=masked_parameters(connection.path_params),
        address=connection.request.remote,
        age=trio.current_time() - connection.phases.handshake,
        statistics=connection.statistics(),
        recent=tuple(connection.recent or ()),
        tasks=() if nursery is None else _tasks(nursery, [_MAX_TASKS], _MAX_DEPTH),
    )


def _tasks(nursery: trio.Nursery, left: list[int], depth: int) -> tuple[TaskReport, ...]:
    """``left`` holds how many more tasks may be in the report, over the whole tree."""
    reports = []
    for task in sorted(nursery.child_tasks, key=lambda task: task.name):
        if left[0] <= 0 or depth <= 0:
            break
        left[0] -= 1
        below: list[TaskReport] = []
        for inner in task.child_nurseries:
            below += _tasks(inner, left, depth - 1)
        reports.append(TaskReport(task.name, tuple(below)))
    return tuple(reports)
