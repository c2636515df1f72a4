"""The thread that runs an engine, and what other threads may call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVarTuple

import trio

from trioserver.engine.errors import WrongThreadError

_Ts = TypeVarTuple("_Ts")


class EngineThread:
    """Remembers the thread in which `enter` was called. Until then each thread counts as it."""

    def __init__(self) -> None:
        self._ident: int | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def enter(self) -> None:
        """Make the current thread, which runs Trio, the engine's."""
        self._ident, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()

    @property
    def is_current(self) -> bool:
        return self._ident is None or threading.get_ident() == self._ident

    def check(self, method: str) -> None:
        """Raise `WrongThreadError` in another thread: ``method`` is called from there."""
        if not self.is_current:
            raise WrongThreadError(
                f"{method}() was called from a thread that does not run the server: use "
                "publish_nowait(), which any thread may call, or trio.from_thread.run()"
            )

    def call(self, function: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call ``function`` now, or soon in the engine's thread if this is another one."""
        if self.is_current or self._token is None:
            function(*args)
        else:
            self._token.run_sync_soon(function, *args)
