"""A subscriber that remembers what it was sent."""

from __future__ import annotations

import json
from typing import Any

import attrs
import trio


@attrs.define(eq=False)
class Listener:
    """What came, as decoded messages; `wait_for` waits until so many have."""

    heard: list[dict[str, Any]] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def deliver(self, frame: bytes) -> None:
        self.heard.append(json.loads(frame))
        self._changed.set()

    @property
    def data(self) -> list[Any]:
        """The data of the events."""
        return [message["data"] for message in self.heard if message["type"] == "event"]

    @property
    def offsets(self) -> list[int]:
        return [message["offset"] for message in self.heard if message["type"] == "event"]

    async def wait_for(self, kind: str, count: int = 1) -> None:
        """Wait until ``count`` messages of a type have come. Raises `trio.TooSlowError`."""
        with trio.fail_after(20):
            while sum(message["type"] == kind for message in self.heard) < count:
                self._changed = trio.Event()
                await self._changed.wait()
