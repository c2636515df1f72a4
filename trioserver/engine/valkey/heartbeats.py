"""Heartbeats of a node: a write on one link that must come back on the other.

A PING is not enough: a primary that was demoted answers it, and even PUBLISH, and keeps connections
open for ever. A heartbeat renews the node's lease, which a replica refuses, and is published to the
node's own channel, which only the same server brings back.
"""

from __future__ import annotations

from typing import Final

import trio

from trioserver.engine.valkey.link import Link, LinkLost
from trioserver.engine.valkey.names import Names
from trioserver.engine.valkey.scripts import HEARTBEAT

INTERVAL: Final = 5.0
LEASE: Final = 15
"""Seconds after its last heartbeat, for which a node counts as alive."""


class Heartbeats:
    """Sends heartbeats, and waits for each to come back."""

    def __init__(self, node: str, names: Names) -> None:
        self._node = node
        self._leases = names.leases
        self.channel = names.node_channel(node).encode()
        self._number = 0
        self._came_back = trio.Event()

    def receive(self, payload: bytes) -> None:
        """Take a message of the node's own channel."""
        if payload == str(self._number).encode():
            self._came_back.set()

    async def run(self, link: Link) -> None:
        """Send heartbeats until cancelled. Raises `LinkLost` if one does not come back in time."""
        while True:
            self._number += 1
            self._came_back = trio.Event()
            next_at = trio.current_time() + INTERVAL
            with trio.move_on_at(next_at):
                await link.call(
                    *("EVALSHA", HEARTBEAT.digest, 1, self._leases),
                    *(self._node, LEASE, self.channel, self._number),
                )
                await self._came_back.wait()
            if not self._came_back.is_set():
                reason = f"a heartbeat did not come back within {INTERVAL:g} s"
                raise LinkLost(reason, sent=True)
            await trio.sleep_until(next_at)
