"""Reloading: a new configuration, certificates and the files of components, without a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from trioserver.auth.component import overrides
from trioserver.config import Config, ListenConfig
from trioserver.server.operations.listener_manager import (
    TLS_FILES,
    ListenerManager,
    differ_in_tls_files_only,
)
from trioserver.websocket.errors import ListenError

log: Final = structlog.get_logger("trioserver")

_TIMEOUT: Final = 60.0
"""Seconds after which a reload is given up, for example on a network drive that hangs."""

_MASK: Final = "***"

AT_START: Final = ("audit", "http")
"""Tables of the configuration that are read at the start only. Each listener is compared apart."""


@attrs.frozen(kw_only=True)
class ReconfigureResult:
    """The result of `Server.reconfigure`.

    - ``changed``: "old -> new" by the option's name, with secrets masked.
    - ``needs_restart``: options that changed too, but take effect at the next start only.
    """

    changed: Mapping[str, str]
    needs_restart: tuple[str, ...]


def compare(old: Config, new: Config) -> ReconfigureResult:
    """Say what changes if ``new`` replaces ``old``."""
    differences = list(_differences(old, new))
    at_restart = [name for name, *_ in differences if _needs_restart(name, old, new)]
    return ReconfigureResult(
        changed={
            name: _MASK if secret else f"{_shown(one)} -> {_shown(other)}"
            for name, one, other, secret in differences
            if name not in at_restart
        },
        needs_restart=tuple(at_restart),
    )


def keep_what_is_read_at_start(old: Config, new: Config) -> Config:
    """Return ``new`` with the tables of ``old`` that are read at the start only."""
    return attrs.evolve(new, **{table: getattr(old, table) for table in AT_START})


def _differences(
    old: Any, new: Any, path: str = "", secret: bool = False
) -> Iterator[tuple[str, Any, Any, bool]]:
    if attrs.has(type(old)) and type(old) is type(new):
        for field in attrs.fields(type(old)):
            name = f"{path}.{field.name}" if path else field.name
            values = getattr(old, field.name), getattr(new, field.name)
            yield from _differences(*values, name, secret or field.repr is False)
    elif path == "listen" and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"listen[{index}]", secret)
    elif old != new:
        yield path, old, new, secret


def _needs_restart(name: str, old: Config, new: Config) -> bool:
    """Whether a change of this option takes effect at the next start only."""
    if any(name == late or name.startswith(f"{late}.") for late in AT_START):
        return True
    table, _, option = name.rpartition(".")
    is_listener = table.startswith("listen[") or name in attrs.fields_dict(ListenConfig)
    if name == "listen":
        return True
    if not is_listener:
        return False
    index = int(table[len("listen[") : -1]) if table else 0
    both_listed = bool(old.listen) == bool(new.listen)
    return not (
        option in TLS_FILES
        and both_listed
        and index < min(len(old.listeners), len(new.listeners))
        and differ_in_tls_files_only(old.listeners[index], new.listeners[index])
    )


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class Reloader:
    """Holds the configuration in force, and replaces it.

    - ``apply`` is called with the configuration that is in force from now on.
    - ``components`` are told to read their files again, those that are a `Component`.
    - ``load_config`` is called in a worker thread; None: the configuration stays.
    """

    def __init__(
        self,
        config: Config,
        *,
        listeners: ListenerManager,
        components: Iterable[Any],
        apply: Callable[[Config], None],
        load_config: Callable[[], Config] | None,
    ) -> None:
        self.config = config
        self._listeners = listeners
        self._components = components
        self._apply = apply
        self._load_config = load_config
        self._reconfiguring = trio.Lock()

    async def reconfigure(self, config: Config) -> ReconfigureResult:
        """See `Server.reconfigure`."""
        async with self._reconfiguring:
            certificates = await self._listeners.load_certificates(config)
            outcome = compare(self.config, config)
            certificates.use()
            self.config = keep_what_is_read_at_start(self.config, config)
            self._apply(self.config)
        log.info("reconfigured", changed=outcome.changed, needs_restart=list(outcome.needs_restart))
        return outcome

    async def reload(self) -> bool:
        """See `Server.reload`."""
        good = await self._attempt(self._reload_config)
        for part in self._components:
            if overrides(part, "reload"):
                good &= await self._attempt(partial(self._reload_part, part))
        return good

    async def _attempt(self, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            with trio.fail_after(_TIMEOUT):
                await work()
        except Exception as error:
            known = isinstance(error, ValueError | ListenError)  # made to be read, no secrets
            log.error("reload_failed", reason=str(error) if known else type(error).__name__)
            return False
        return True

    async def _reload_config(self) -> None:
        config = self.config
        if self._load_config is not None:
            config = await trio.to_thread.run_sync(self._load_config, abandon_on_cancel=True)
        await self.reconfigure(config)

    async def _reload_part(self, part: Any) -> None:
        changed = await trio.to_thread.run_sync(part.reload, abandon_on_cancel=True)
        log.info("keys_reloaded", authenticator=type(part).__name__, changed=changed)

    async def watch_certificates(self) -> None:
        """Use new certificates whenever their files change, until cancelled."""
        while True:
            await trio.sleep(self.config.tls.check_interval)
            await self._listeners.reload_changed_certificates()
