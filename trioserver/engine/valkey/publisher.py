"""The link on which a node publishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
import trio
from msgspec import Raw

from trioserver.engine.history import KEY_SECONDS, History
from trioserver.engine.position import Position
from trioserver.engine.valkey.link import MAX_OUTSTANDING, Link, LinkLost
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.scripts import PUBLISH
from trioserver.logs.throttle import LogThrottle

_LOG_INTERVAL: Final = 10.0

_log: Final = structlog.get_logger("trioserver")


class Publisher:
    """Publishes on one link after the other: `use` says which."""

    def __init__(
        self,
        names: Names,
        history_of: Callable[[str], History | None],
        epochs: Iterator[str],
    ) -> None:
        self._names = names
        self._history_of = history_of
        self._epochs = epochs
        self._link: Link | None = None
        self._lineage = ""
        self._throttle = LogThrottle(_LOG_INTERVAL)
        self.dropped = 0
        """Events of `publish_nowait` that were not sent."""

    @property
    def outstanding(self) -> int:
        """Bytes of commands that have no answer yet."""
        return 0 if self._link is None else self._link.outstanding

    def use(self, link: Link, lineage: str) -> None:
        """Publish on ``link`` from now on, as long as it works."""
        self._link, self._lineage = link, lineage

    async def publish(self, topic: str, data: Raw, key: str | None, history: bool) -> Position:
        """Publish and return the position. Raises `LinkLost` and `ServerError`."""
        if self._link is None:
            raise LinkLost("the engine was never reached", sent=False)
        command = self._command(topic, data, key, history)
        _, position = await self._link.call(*command)
        offset, _, mark = position.decode().partition(" ")
        return Position(int(offset), mark)

    def publish_nowait(self, topic: str, data: Raw) -> None:
        """Publish without waiting for the answer; see `ValkeyEngine.publish_nowait`."""
        try:
            if self._link is None or self._link.outstanding > MAX_OUTSTANDING:
                self._drop()
            else:
                self._link.send(*self._command(topic, data, None, True))
        except LinkLost:
            self._drop()

    def _drop(self) -> None:
        self.dropped += 1
        if self._throttle.allow(trio.current_time()) is not None:
            _log.warning("events_dropped", dropped=self.dropped)

    def _command(self, topic: str, data: Raw, key: str | None, history: bool) -> tuple[Any, ...]:
        events, state, channel = self._names.topic(topic)
        kept = self._history_of(topic) if history else None
        bounds = (0, 0, 1) if kept is None else (kept.events, kept.bytes, kept.seconds)
        tail = (channel, bytes(data), next(self._epochs), self._lineage, *bounds)
        if key is None:
            return ("EVALSHA", PUBLISH.digest, 2, events, state, *tail)
        known = self._names.publish_key(topic, key)
        return ("EVALSHA", PUBLISH.digest, 3, events, state, known, *tail, KEY_SECONDS)
