"""How a server stands, in a few numbers for people and programs."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trioserver.telemetry.audit import AuditStatistics


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot.

    ``refused`` counts those who were not let in, since the start: requests and connections, by
    error code, ``http_STATUS``, or `Rejection.code`; the metric ``refusals_total`` has the
    same numbers. ``ended`` counts all WebSocket connections that have ended, by error code, or
    "client_disconnected".

    ``open`` are all connections, ``http`` those of them on which HTTP is spoken. ``evicted`` counts
    those who were not authenticated and had to give way, ``address_blocks`` how often an address
    was blocked; ``blocked_addresses`` are blocked now. ``blocks`` are those of users, sessions,
    tokens and resources; ``audit`` is None where nothing is recorded. ``memory_bytes`` is what all
    queues and outboxes hold, ``memory_waiting`` how many connections are not read from because of
    it, and ``memory_closed`` how many were closed because of it.
    """

    open: int
    unauthenticated: int
    ready: int
    http: int
    accepted: int
    topics: int
    refused: Mapping[str, int]
    ended: Mapping[str, int]
    evicted: int
    address_blocks: int
    blocked_addresses: int
    draining: bool
    blocks: int = 0
    memory_bytes: int = 0
    memory_waiting: int = 0
    memory_closed: int = 0
    audit: AuditStatistics | None = None
