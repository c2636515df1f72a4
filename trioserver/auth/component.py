"""The base class of objects that the server starts, reloads and checks."""

from __future__ import annotations

from collections.abc import Sequence

import trio


class Component:
    """An object with background work, files to reload, or a health check. Override what it needs.

    Authenticators, authorizers, presences and mailboxes may be components. The server calls these
    methods once for each component, however many routes use it. It does not call methods of the
    same names on objects that are not a `Component`.
    """

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Work in the background, from before the first connection until after the last.

        Call ``task_status.started()`` when the server may accept connections. Afterwards return,
        or run until cancelled. An exception before that call stops the start of the server. A
        later one is logged, and the method is called again.
        """
        await trio.lowlevel.checkpoint()
        task_status.started()

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Check the addresses that the server is going to listen on, such as "127.0.0.1:8765".

        Raise `ValueError` to stop the start of the server.
        """

    def reload(self) -> Sequence[str]:
        """Read files again when the server reloads (SIGHUP). Called in a worker thread.

        Return the names of the files that have changed. Raise `ValueError` if a file cannot be
        used, and keep what was read before.
        """
        return ()

    async def check_health(self) -> None:
        """Raise while something that this depends on does not work. Called for ``/readyz``."""
        await trio.lowlevel.checkpoint()


def overrides(part: object, name: str) -> bool:
    """Whether ``part`` is a `Component` that overrides the method with this name."""
    if not isinstance(part, Component):
        return False
    return getattr(type(part), name) is not getattr(Component, name) or name in vars(part)
