"""Whose log line it is: connection, user and request, bound to all that runs on its behalf.

These are structlog's own context variables, so that any line of structlog, and of the standard
`logging` where it is routed there, has them: also one that is written far from the connection.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from structlog.contextvars import bind_contextvars

from protocol import Id

MAX_USER: Final = 256
"""Characters of a user's id in a line; a token may say a longer one."""

UNBOUND: Final = ...
"""What structlog leaves out of a line."""


def _variable(name: str) -> ContextVar[Any]:
    """structlog's variable of this name: setting it is cheaper than binding by name."""
    return Context().run(lambda: bind_contextvars(**{name: UNBOUND}))[name].var


_CONNECTION_ID: Final = _variable("connection_id")
_USER: Final = _variable("user")
_REQUEST_ID: Final = _variable("request_id")
_VARIABLES: Final = (_CONNECTION_ID, _USER, _REQUEST_ID)


def bind_connection(connection_id: str, user: str | None) -> None:
    """From here on in this task, and in those it starts, lines are this connection's."""
    _CONNECTION_ID.set(connection_id)
    _USER.set(UNBOUND if user is None else user[:MAX_USER])
    _REQUEST_ID.set(UNBOUND)


set_request_id: Final = _REQUEST_ID.set
"""As `bind_request`, for where each call counts; `UNBOUND` for none."""


def bind_request(id: Id | None) -> None:
    """From here on in this task, lines are this request's; None: of none in particular."""
    _REQUEST_ID.set(UNBOUND if id is None else id)


class BoundConnection:
    """Inside of it lines are this connection's; nothing is left behind in the caller's task."""

    __slots__ = ("_before", "_connection_id", "_user")

    def __init__(self, connection_id: str, user: str | None = None) -> None:
        self._connection_id = connection_id
        self._user = user

    def __enter__(self) -> None:
        self._before = tuple(variable.get(UNBOUND) for variable in _VARIABLES)
        bind_connection(self._connection_id, self._user)

    def __exit__(self, *_: object) -> None:
        for variable, value in zip(_VARIABLES, self._before, strict=True):
            variable.set(value)


def context_for(connection_id: str, user: str | None) -> Context:
    """A connection's context for `def` handlers, which run in whichever task has read for them.

    Entering it costs less than a tenth of a microsecond; it cannot be entered from within itself.
    Context variables that a handler sets are kept for the connection's next `def` handler, and are
    nobody else's.
    """
    context = copy_context()
    context.run(bind_connection, connection_id, user)
    return context
