"""The two links of a node to the engine's server: kept open, and opened anew if one is lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import structlog
import trio

from trioserver.engine.errors import EngineConfigurationError, EngineUnavailableError
from trioserver.engine.valkey.address import EngineAddress
from trioserver.engine.valkey.heartbeats import Heartbeats
from trioserver.engine.valkey.link import LinkLost
from trioserver.engine.valkey.login import open_link
from trioserver.engine.valkey.publisher import Publisher
from trioserver.engine.valkey.topic_reader import TopicReader

PATIENCE: Final = 2.0
"""Seconds that a call waits for an engine that is away, and subscribers are not told of it. It
hides a restart and most failovers."""

FIRST_DELAY: Final = 0.05
"""Seconds before the first new attempt."""

_MAX_DELAY: Final = 1.0
_STALE_CHECK: Final = 0.25

_log: Final = structlog.get_logger("trioserver")


class Links:
    """Gives the reader and the publisher a link each; both are replaced together.

    ``away_since`` is Trio's time at which the engine was lost, None while it is there: both links
    are open, and all topics are live. ``on_live`` is called when it is there again, and
    ``on_stale``, with the seconds for which it has been away, again and again after `PATIENCE`.
    """

    def __init__(
        self,
        address: EngineAddress,
        node: str,
        *,
        reader: TopicReader,
        publisher: Publisher,
        heartbeats: Heartbeats,
        on_live: Callable[[], None],
        on_stale: Callable[[float], None],
    ) -> None:
        self._address = address
        self._name = f"trioserver-{node}"
        self._reader = reader
        self._publisher = publisher
        self._heartbeats = heartbeats
        self._on_live = on_live
        self._on_stale = on_stale
        self._up = trio.Event()
        self._logged: str | None = None  # why it is away, as the log has it
        self.away_since: float | None = None
        self.lost = 0
        """How often the engine was lost."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the links. Ends only when it is cancelled.

        Has started after the first attempt to reach the server, whatever came of it. Raises
        `EngineConfigurationError` if that attempt shows that trying again does not help.
        """
        self.away_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_stale)
            await self._keep(task_status)

    async def wait_up(self, *, sent: bool = False) -> None:
        """Wait until the engine is there.

        Raises `EngineUnavailableError`, with ``sent``, if it is away for more than `PATIENCE`.
        """
        if self.away_since is not None:
            with trio.move_on_at(self.away_since + PATIENCE):
                await self._up.wait()
        if not self._up.is_set():
            raise EngineUnavailableError("the engine is away", sent=sent)

    async def _keep(self, task_status: trio.TaskStatus[None]) -> None:
        delay, has_started = FIRST_DELAY, False

        def started() -> None:
            nonlocal has_started
            if not has_started:
                has_started = True
                task_status.started()

        while True:
            try:
                await self._use(started)
            except* LinkLost as lost:
                self._log_away("engine_lost", lost)
            except* EngineConfigurationError as error:
                if not has_started:
                    raise
                self._log_away("engine_refused", error)
            if self._up.is_set():
                self._up = trio.Event()
                self.away_since = trio.current_time()
                self.lost += 1
                delay = FIRST_DELAY
            started()
            await trio.sleep(delay * (0.5 + secrets.randbelow(1024) / 1024))
            delay = min(2 * delay, _MAX_DELAY)

    async def _use(self, started: Callable[[], None]) -> None:
        """Open both links and use them until one is lost."""
        async with (
            open_link(self._address, self._name) as (publishing, lineage),
            open_link(self._address, self._name, self._reader.push) as (reading, other_lineage),
            trio.open_nursery() as nursery,
        ):
            if lineage != other_lineage:
                raise LinkLost("the two links lead to different servers", sent=False)
            self._publisher.use(publishing, lineage)
            await nursery.start(self._reader.run, reading, lineage, self._all_live)
            started()
            await self._heartbeats.run(publishing)

    def _all_live(self) -> None:
        if self._logged is not None and self.away_since is not None:
            away = round(trio.current_time() - self.away_since, 3)
            _log.info("engine_back", address=str(self._address), away_seconds=away)
        self._logged = None
        self.away_since = None
        self._up.set()
        self._on_live()

    async def _tell_stale(self) -> None:
        while True:
            await trio.sleep(_STALE_CHECK)
            if self.away_since is not None:
                away = trio.current_time() - self.away_since
                if away >= PATIENCE:
                    self._on_stale(away)

    def _log_away(self, event: str, group: BaseExceptionGroup[Exception]) -> None:
        """Log why the engine is away; not each attempt that fails for the same reason."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = str(error)
        if reason != self._logged:
            self._logged = reason
            _log.warning(event, address=str(self._address), reason=reason)
