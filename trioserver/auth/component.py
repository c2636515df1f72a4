"""What takes part in a server's life: a base class, so that nothing does so by accident."""

from __future__ import annotations

from collections.abc import Sequence

import trio


class Component:
    """Something with a part in the life of the server that uses it. Subclass it and override.

    Authenticators, authorizers, presences and mailboxes may be components; the server calls these
    methods of them, each component once, however many routes have it. An object that is not a
    `Component` may have methods of the same names: they are its own, and never called.
    """

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Work in the background, from before the first connection until after the last.

        Call ``task_status.started()``: the server does not accept connections before. Then it may
        return, or run until it is cancelled. What it raises before that call stops the start; what
        it raises later is logged, and it is run again.
        """
        await trio.lowlevel.checkpoint()
        task_status.started()

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Look at the addresses that the server is going to serve, as "127.0.0.1:8765".

        Raise `ValueError` to refuse the start.
        """

    def reload(self) -> Sequence[str]:
        """Read files again, when the server is told to reload (SIGHUP); in a worker thread.

        Returns the names of what has changed. Raise `ValueError` to keep the old.
        """
        return ()

    async def check_health(self) -> None:
        """Raise while what this depends on does not answer; ``/readyz`` asks."""
        await trio.lowlevel.checkpoint()


def overrides(part: object, name: str) -> bool:
    """Whether ``part`` is a `Component` that has a method of this name of its own."""
    if not isinstance(part, Component):
        return False
    return getattr(type(part), name) is not getattr(Component, name) or name in vars(part)
