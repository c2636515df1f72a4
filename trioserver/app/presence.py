"""The users that are connected to each resource of a route.

A user joins with the first connection and leaves with the last. With a grace period, a user who
comes back within it has not left. Only the connections of this process count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote

import attrs
import structlog
import trio

from protocol import TooBigToSendError
from trioserver.app.functions import refuse_async
from trioserver.app.member import Member
from trioserver.auth import Component, User, id_if_given, id_of
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.websocket.errors import ConnectionEnded

MAX_GRACE: Final = 3600.0
"""Seconds."""

MAX_AWAITED: Final = 10_000
"""Users without a connection whose grace period has not ended. Beyond it, those who were
disconnected first leave early."""

_log: Final = structlog.get_logger("trioserver")

_ResourceKey: TypeAlias = tuple[tuple[str, str], ...]
_Change: TypeAlias = Literal["join", "leave"]

PresenceHook: TypeAlias = Callable[[User, Mapping[str, str]], object]
"""Called with the user and the resource. A plain function; it must not block."""

_Hook = TypeVar("_Hook", bound=PresenceHook)


@attrs.frozen
class PresenceEntry:
    """A present user, with the number of connections, and since when (Unix epoch, in seconds).

    ``connections`` is 0 for a user whose grace period has not ended.
    """

    user: str
    connections: int
    since: float


@attrs.define(eq=False)
class _PresentUser:
    """A user at one resource."""

    user: User
    key: _ResourceKey
    since: float
    connections: dict[Member, None] = attrs.field(factory=dict)
    leaves_at: float = math.inf


class Presence(Component):
    """The presence of a route: ``app.route(path, presence=Presence())``; then ``route.presence``.

    ``grace``, in seconds: how long after the end of the last connection a user leaves, unless the
    user is back by then. With 0 the user leaves at once.

    Each join and leave is published to `topic`, as ``{"event": "join", "user": "alice"}``. Clients
    may subscribe to it if the route's ``allow_subscribe`` says so. A user joins at the moment of
    `ready`, before ``on_ready`` is called, and leaves when the connection has been closed, before
    ``on_close`` is called.
    """

    def __init__(self, *, grace: float = 0.0) -> None:
        if not 0.0 <= grace <= MAX_GRACE:
            raise ValueError(f"grace is {grace!r}; it must be from 0 to {MAX_GRACE:g} seconds")
        self.grace = grace
        self._path: str | None = None
        self._parameters: frozenset[str] = frozenset()
        self._publish: Callable[[str, Any], int]
        self._resources: dict[_ResourceKey, dict[str, _PresentUser]] = {}
        self._awaited: dict[_PresentUser, None] = {}  # ordered by the end of the grace period
        self._changed = trio.Event()
        self._running = 0
        self._hooks: dict[_Change, list[PresenceHook]] = {"join": [], "leave": []}

    def __repr__(self) -> str:
        return f"<Presence of {self._path}>"

    def __len__(self) -> int:
        """The number of present users of each resource, added up."""
        return sum(map(len, self._resources.values()))

    # -------------------------------------------------------------------------- queries

    def users(self, resource: Mapping[str, str] | None = None) -> tuple[PresenceEntry, ...]:
        """Return the present users, in the order in which they came; each user once.

        ``resource`` selects the resources that have all of these parameters; None selects all.
        """
        found: dict[str, list[_PresentUser]] = {}
        for present in self._select(resource):
            found.setdefault(present.user.id, []).append(present)
        return tuple(
            PresenceEntry(
                user,
                sum(len(present.connections) for present in same),
                min(present.since for present in same),
            )
            for user, same in found.items()
        )

    def connections(
        self, user: str | User | None = None, resource: Mapping[str, str] | None = None
    ) -> tuple[Member, ...]:
        """Return the connections of a user, or of all users, that have not ended.

        ``resource`` is as in `users`.
        """
        found = self._select(resource, id_if_given(user))
        return tuple(each for one in found for each in one.connections if not each.has_ended)

    def is_present(self, user: str | User, resource: Mapping[str, str] | None = None) -> bool:
        """Whether the user is connected, or was until less than the grace period ago."""
        return any(True for _ in self._select(resource, id_of(user)))

    def topic(self, resource: Mapping[str, str] | None = None) -> str:
        """Return the topic for joins and leaves at a resource: "presence:/ws/rooms/1".

        Raises `KeyError` if a parameter of the path is missing.
        """
        if self._path is None:
            raise RuntimeError("give it to a route first: app.route(path, presence=presence)")
        quoted = {name: quote(value, safe="") for name, value in (resource or {}).items()}
        return f"presence:{self._path.format_map(quoted)}"

    def _select(
        self, resource: Mapping[str, str] | None, user: str | None = None
    ) -> Iterable[_PresentUser]:
        for users in self._matching(resource or {}):
            if user is None:
                yield from users.values()
            elif user in users:
                yield users[user]

    def _matching(self, resource: Mapping[str, str]) -> Iterable[dict[str, _PresentUser]]:
        if self._path is not None and resource.keys() == self._parameters:
            exact = self._resources.get(_key(resource))
            return () if exact is None else (exact,)
        return [
            users for key, users in self._resources.items() if resource.items() <= dict(key).items()
        ]

    # -------------------------------------------------------------------------- hooks

    def on_join(self, function: _Hook) -> _Hook:
        """Register a function to call, with the user and the resource, when a user joins.

        It must not block. What it raises is logged. Raises `TypeError` for an async function.
        """
        refuse_async(function, "on_join")
        self._hooks["join"].append(function)
        return function

    def on_leave(self, function: _Hook) -> _Hook:
        """Register a function to call when a user leaves. See `on_join`."""
        refuse_async(function, "on_leave")
        self._hooks["leave"].append(function)
        return function

    # -------------------------------------------------------------------------- for the server

    def bind(
        self, path: str, parameters: frozenset[str], publish: Callable[[str, Any], int]
    ) -> None:
        """Make this the presence of the route with this path. Raises `ValueError` the second time.

        ``publish`` sends data to a topic.
        """
        if self._path is not None:
            raise ValueError(f"{path}: this presence already belongs to the route {self._path}")
        self._path = path
        self._parameters = parameters
        self._publish = publish

    def join(self, connection: Member, since: float) -> None:
        """Add a connection that has become ready. ``since``: now, in seconds of the Unix epoch."""
        key = _key(connection.path_params)
        users = self._resources.setdefault(key, {})
        present = users.get(connection.user.id)
        if present is None:
            present = _PresentUser(connection.user, key, since)
            users[connection.user.id] = present
            present.connections[connection] = None
            self._notify("join", present)
        else:
            present.connections[connection] = None
            self._awaited.pop(present, None)

    def leave(self, connection: Member) -> None:
        """Remove a connection that has ended, if it had joined."""
        present = self._resources.get(_key(connection.path_params), {}).get(connection.user.id)
        if present is None or connection not in present.connections:
            return
        del present.connections[connection]
        if present.connections:
            return
        if self.grace == 0.0 or not self._running:
            self._remove(present)
            return
        present.leaves_at = trio.current_time() + self.grace
        self._awaited[present] = None
        if len(self._awaited) > MAX_AWAITED:
            self._remove(next(iter(self._awaited)))
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End grace periods; the server runs this. When it is cancelled, they all end."""
        self._running += 1
        try:
            task_status.started()
            while True:
                first = next(iter(self._awaited), None)
                self._changed = trio.Event()
                with trio.move_on_at(math.inf if first is None else first.leaves_at):
                    await self._changed.wait()
                now = trio.current_time()
                for present in [one for one in self._awaited if one.leaves_at <= now]:
                    self._remove(present)
        finally:
            self._running -= 1
            if not self._running:
                for present in tuple(self._awaited):
                    self._remove(present)

    def _remove(self, present: _PresentUser) -> None:
        self._awaited.pop(present, None)
        users = self._resources[present.key]
        del users[present.user.id]
        if not users:
            del self._resources[present.key]
        self._notify("leave", present)

    def _notify(self, change: _Change, present: _PresentUser) -> None:
        resource = dict(present.key)
        for hook in self._hooks[change]:
            try:
                hook(present.user, resource)
            except ConnectionEnded as error:
                if may_log("presence_hook_stopped", user=present.user.id):
                    _log.warning(
                        "presence_hook_stopped",
                        hook=change,
                        reason="it sent to a connection that had ended",
                        connection_id=error.connection_id,
                    )
            except Exception as error:
                if may_log("presence_hook_failed", user=present.user.id, traceback=True):
                    _log.error("presence_hook_failed", hook=change, traceback=traceback_of(error))
        data: dict[str, Any] = {"event": change, "user": present.user.id}
        try:
            self._publish(self.topic(resource), data)
        except TooBigToSendError as error:
            if may_log("presence_event_too_big", user=present.user.id):
                _log.error("presence_event_too_big", size=error.size, limit=error.limit)


def _key(resource: Mapping[str, str]) -> _ResourceKey:
    return tuple(sorted(resource.items()))
