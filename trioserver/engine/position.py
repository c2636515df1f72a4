"""Where a subscriber stands in a topic, and whether it can go on from there.

Each topic has events with offsets from 1. An offset alone does not name an event for ever: a server
that lost its memory counts anew, and one that came back from an older snapshot gives the same
offsets to other events. So a position has a mark beside it: the epoch of the topic (new when its
events start again from 1) and the lineage in which the event was written (new with each restart
and each promotion of the engine's server). Clients treat the mark as opaque text.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import count
from typing import Final, Literal, TypeAlias

import attrs

Why: TypeAlias = Literal["new", "ok", "epoch", "forked", "trimmed", "many"]
"""Why a subscription starts where it does:

- ``new``: no position was given.
- ``ok``: it goes on from its position, with all events since.
- ``epoch``: the history was lost; offsets started again from 1.
- ``forked``: the engine lost events that the subscriber has seen.
- ``trimmed``: events since the position are no longer kept.
- ``many``: more events were missed than one resume may have.
"""

UNKNOWN_LINEAGE: Final = "-"
"""The lineage where the engine's server does not say. Then a fork cannot be seen."""


def new_epochs() -> Iterator[str]:
    """Epochs that are given to no other topic, by this process or another one."""
    process = secrets.token_hex(6)
    return (f"{process}{number:x}" for number in count(1))


@attrs.frozen
class Position:
    """The last event that was seen: ``offset`` 0 is before the first event."""

    offset: int
    mark: str

    @property
    def epoch(self) -> str:
        return self.mark.partition(".")[0]

    @property
    def lineage(self) -> str:
        return self.mark.partition(".")[2]


@attrs.frozen
class TopicState:
    """The state of a topic in the engine: its last event, and what its history reaches back to.

    ``past`` holds the lineages before this one, oldest first, each with the last offset written in
    it; the oldest ones may be missing. ``first`` is the oldest offset that is kept, ``top + 1``
    where none is.
    """

    epoch: str
    lineage: str
    top: int
    first: int
    past: tuple[tuple[str, int], ...] = ()

    @property
    def position(self) -> Position:
        return Position(self.top, f"{self.epoch}.{self.lineage}")

    def check_since(self, since: Position) -> Why:
        """Return ``ok`` if a subscriber at ``since`` has seen this topic up to there and all
        events after it are kept; otherwise ``epoch``, ``forked`` or ``trimmed``."""
        if since.epoch != self.epoch:
            return "epoch"
        if since.offset > self._end_of(since.lineage):
            return "forked"
        return "ok" if since.offset + 1 >= self.first else "trimmed"

    def lineage_of(self, offset: int) -> str:
        """The lineage in which an event was written."""
        for name, end in self.past:
            if offset <= end:
                return name
        return self.lineage

    def _end_of(self, lineage: str) -> int:
        """The last offset that was written in a lineage; -1 if it is not known."""
        if lineage == self.lineage:
            return self.top
        for name, end in reversed(self.past):
            if name == lineage:
                return end
        return -1


@attrs.frozen
class Resumed:
    """The start of a subscription: events missed since a position, as they are sent, in order.

    With ``recovered``, what the subscriber has seen and ``frames`` are together exactly the
    engine's events up to ``position``; live events go on from there.
    """

    position: Position
    recovered: bool
    why: Why
    frames: tuple[bytes, ...] = attrs.field(default=(), repr=False)


@attrs.frozen
class Page:
    """A part of a topic's history: ``events`` are the data of the offsets from ``first`` on.

    ``state`` is that of the topic when the page was read. With ``is_last`` the page reaches to the
    topic's last event.
    """

    state: TopicState
    first: int
    events: tuple[bytes, ...] = attrs.field(repr=False)

    @property
    def end(self) -> int:
        """The offset of the last event of the page; ``first - 1`` if it is empty."""
        return self.first + len(self.events) - 1

    @property
    def is_last(self) -> bool:
        return self.end >= self.state.top
