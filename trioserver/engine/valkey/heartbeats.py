"""Heartbeats of a node: a write on one link that must come back on the other.

A PING is not enough: a primary that was demoted answers it, and even PUBLISH, and keeps connections
open for ever. A beat renews the node's lease, which a replica refuses, and is published to the
node's own channel, which only the same server brings back.
"""

from __future__ import annotations

from typing import Final

import trio

from trioserver.engine.valkey.link import Link, LinkLost
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.scripts import BEAT

INTERVAL: Final = 5.0
LEASE: Final = 15
"""Seconds after its last beat, for which a node counts as alive."""


class Heartbeats:
    """Sends beats and waits for each to come back."""

    def __init__(self, node: str, names: Names) -> None:
        self._node = node
        self._names = names
        self.channel = names.node_channel(node).encode()
        self._number = 0
        self._came_back = trio.Event()
        self.says = "{}"
        """What the node says of itself to the others, as JSON."""

    def heard(self, payload: bytes) -> None:
        """Take a message of the node's own channel."""
        if payload == str(self._number).encode():
            self._came_back.set()

    async def run(self, link: Link) -> None:
        """Beat until cancelled. Raises `LinkLost` for a beat that does not come back in time."""
        while True:
            self._number += 1
            self._came_back = trio.Event()
            with trio.move_on_after(INTERVAL):
                await link.call(
                    *("EVALSHA", BEAT.digest, 2, self._names.leases, self._names.nodes),
                    *(self._node, LEASE, self.says, self.channel, self._number),
                )
                await self._came_back.wait()
                await trio.sleep_forever()
            if not self._came_back.is_set():
                raise LinkLost(f"a beat did not come back within {INTERVAL:g} s", sent=True)
