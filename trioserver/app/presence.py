"""Who is here: the users that are connected to each resource of a route.

A user joins with the first connection and leaves with the last. With a grace period whoever comes
back within it has never left. It is the presence in this process: another server's users are not
seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote

import attrs
import structlog
import trio

from protocol import TooBigToSendError
from trioserver.app.handlers import refuse_async
from trioserver.auth import Component, id_if_given, id_of
from trioserver.logs.lines import may_log
from trioserver.logs.tracebacks import traceback_of
from trioserver.websocket.errors import ConnectionEnded

if TYPE_CHECKING:
    from trioserver.app.application import Route
    from trioserver.app.connection import Connection
    from trioserver.auth import User

MAX_GRACE: Final = 3600.0
"""Seconds."""

MAX_AWAITED: Final = 10_000
"""Users that have gone and may come back within the grace period. Beyond it those who have been
gone for longest have left."""

_log: Final = structlog.get_logger("trioserver")

_Place: TypeAlias = tuple[tuple[str, str], ...]
_Change: TypeAlias = Literal["join", "leave"]

PresenceHook: TypeAlias = "Callable[[User, Mapping[str, str]], object]"
"""Called with the user and the resource. A plain function; it must not block."""

_Hook = TypeVar("_Hook", bound=PresenceHook)


@attrs.frozen
class Present:
    """A user who is here: with how many connections, and since when (Unix epoch, in seconds).

    ``connections`` is 0 for one who has gone and is awaited back.
    """

    user: str
    connections: int
    since: float


@attrs.define(eq=False)
class _Guest:
    user: User
    place: _Place
    since: float
    connections: dict[Connection, None] = attrs.field(factory=dict)
    leaves_at: float = math.inf


class Presence(Component):
    """The presence of a route: ``app.route(path, presence=Presence())``; then ``route.presence``.

    ``grace``, in seconds: a user whose last connection has ended leaves only after so long, unless
    back by then. 0 leaves at once.

    Each join and leave is published to `topic`, as ``{"event": "join", "user": "alice"}``. Clients
    may subscribe to it where the route's ``allow_subscribe`` says so. A user joins at the moment of
    `ready`, before ``on_ready`` is called, and leaves when the connection has been closed, before
    ``on_close`` is.
    """

    def __init__(self, *, grace: float = 0.0) -> None:
        if not 0.0 <= grace <= MAX_GRACE:
            raise ValueError(f"grace is {grace!r}; it must be from 0 to {MAX_GRACE:g} seconds")
        self.grace = grace
        self._route: Route | None = None
        self._places: dict[_Place, dict[str, _Guest]] = {}
        self._awaited: dict[_Guest, None] = {}  # who left first comes first
        self._changed = trio.Event()
        self._running = 0
        self._hooks: dict[_Change, list[PresenceHook]] = {"join": [], "leave": []}

    def __repr__(self) -> str:
        return f"<Presence of {self._route!r}>"

    def __len__(self) -> int:
        """How many users are here, in all places; one who is in two counts twice."""
        return sum(map(len, self._places.values()))

    # -------------------------------------------------------------------------- asking

    def users(self, resource: Mapping[str, str] | None = None) -> tuple[Present, ...]:
        """Who is here, in the order in which they came; each user once.

        ``resource`` matches where all its parameters do; None is everywhere on the route.
        """
        found: dict[str, list[_Guest]] = {}
        for guest in self._guests(resource):
            found.setdefault(guest.user.id, []).append(guest)
        return tuple(
            Present(
                user,
                sum(len(guest.connections) for guest in guests),
                min(guest.since for guest in guests),
            )
            for user, guests in found.items()
        )

    def connections(
        self, user: str | User | None = None, resource: Mapping[str, str] | None = None
    ) -> tuple[Connection, ...]:
        """The connections of a user, or of all, that have not ended; ``resource`` as of `users`."""
        guests = self._guests(resource, id_if_given(user))
        return tuple(each for guest in guests for each in guest.connections if not each._is_over)

    def is_present(self, user: str | User, resource: Mapping[str, str] | None = None) -> bool:
        """Whether the user is here, or is awaited back."""
        return any(True for _ in self._guests(resource, id_of(user)))

    def topic(self, resource: Mapping[str, str] | None = None) -> str:
        """What joins and leaves at a resource are published to: "presence:/ws/rooms/1".

        Raises `KeyError` where a parameter of the path is missing.
        """
        route = self._route
        if route is None:
            raise RuntimeError("give it to a route first: app.route(path, presence=presence)")
        quoted = {name: quote(value, safe="") for name, value in (resource or {}).items()}
        return f"presence:{route.path.format_map(quoted)}"

    def _guests(
        self, resource: Mapping[str, str] | None, user: str | None = None
    ) -> Iterable[_Guest]:
        for guests in self._matching(resource or {}):
            if user is None:
                yield from guests.values()
            elif user in guests:
                yield guests[user]

    def _matching(self, resource: Mapping[str, str]) -> Iterable[dict[str, _Guest]]:
        if self._route is not None and resource.keys() == self._route.parameters:
            exact = self._places.get(_place(resource))
            return () if exact is None else (exact,)
        return [
            guests
            for place, guests in self._places.items()
            if resource.items() <= dict(place).items()
        ]

    # -------------------------------------------------------------------------- being told

    def on_join(self, function: _Hook) -> _Hook:
        """Call a function, with the user and the resource, when somebody joins.

        It must not block. What it raises is logged. Raises `TypeError` for an async function.
        """
        refuse_async(function, "on_join")
        self._hooks["join"].append(function)
        return function

    def on_leave(self, function: _Hook) -> _Hook:
        """Call a function when somebody leaves; the rest is as of `on_join`."""
        refuse_async(function, "on_leave")
        self._hooks["leave"].append(function)
        return function

    # ------------------------------------------------------------- for the rest of the server

    def _belong_to(self, route: Route) -> None:
        if self._route is not None:
            raise ValueError(f"{route.path}: this presence is {self._route.path}'s already")
        self._route = route

    def _arrived(self, connection: Connection) -> None:
        """A connection is ready."""
        place = _place(connection.resource)
        guests = self._places.setdefault(place, {})
        guest = guests.get(connection.user.id)
        if guest is None:
            guest = _Guest(connection.user, place, connection._wall_clock())
            guests[connection.user.id] = guest
            guest.connections[connection] = None
            self._tell("join", guest)
        else:
            guest.connections[connection] = None
            self._awaited.pop(guest, None)

    def _left(self, connection: Connection) -> None:
        """A connection has ended; one that was never ready changes nothing."""
        if connection._user is None:
            return
        guest = self._places.get(_place(connection.resource), {}).get(connection.user.id)
        if guest is None or connection not in guest.connections:
            return
        del guest.connections[connection]
        if guest.connections:
            return
        if self.grace == 0.0 or not self._running:
            self._leave(guest)
            return
        guest.leaves_at = trio.current_time() + self.grace
        self._awaited[guest] = None
        if len(self._awaited) > MAX_AWAITED:
            self._leave(next(iter(self._awaited)))
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait for those who may come back; the server runs it. At its end nobody is awaited."""
        self._running += 1
        try:
            task_status.started()
            while True:
                first = next(iter(self._awaited), None)
                self._changed = trio.Event()
                with trio.move_on_at(math.inf if first is None else first.leaves_at):
                    await self._changed.wait()
                now = trio.current_time()
                for guest in [guest for guest in self._awaited if guest.leaves_at <= now]:
                    self._leave(guest)
        finally:
            self._running -= 1
            if not self._running:
                for guest in tuple(self._awaited):
                    self._leave(guest)

    def _leave(self, guest: _Guest) -> None:
        self._awaited.pop(guest, None)
        guests = self._places[guest.place]
        del guests[guest.user.id]
        if not guests:
            del self._places[guest.place]
        self._tell("leave", guest)

    def _tell(self, change: _Change, guest: _Guest) -> None:
        resource = dict(guest.place)
        for hook in self._hooks[change]:
            try:
                hook(guest.user, resource)
            except ConnectionEnded as error:
                if may_log("presence_hook_stopped", user=guest.user.id):
                    _log.warning(
                        "presence_hook_stopped",
                        hook=change,
                        reason="it sent to a connection that had ended",
                        connection_id=error.connection_id,
                    )
            except Exception as error:
                if may_log("presence_hook_failed", user=guest.user.id):
                    _log.error("presence_hook_failed", hook=change, traceback=traceback_of(error))
        assert self._route is not None, "whoever arrives arrives on a route"
        data: dict[str, Any] = {"event": change, "user": guest.user.id}
        try:
            self._route.application.publish(self.topic(resource), data)
        except TooBigToSendError as error:
            if may_log("presence_event_too_big", user=guest.user.id):
                _log.error("presence_event_too_big", size=error.size, limit=error.limit)


def _place(resource: Mapping[str, str]) -> _Place:
    return tuple(sorted(resource.items()))
