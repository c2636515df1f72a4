"""How a server stands, in a few numbers for people and programs."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trioserver.audit import AuditStatistics


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot. ``refused`` counts refusals by code since the start.

    ``open`` are all connections, ``http`` those of them on which HTTP is spoken. ``evicted`` counts
    those who were not authenticated and had to give way, ``address_blocks`` how often an address
    was blocked; ``blocked_addresses`` are blocked now. ``blocks`` are those of users, sessions,
    tokens and resources; ``audit`` is None where nothing is recorded.
    """

    open: int
    unauthenticated: int
    ready: int
    http: int
    accepted: int
    topics: int
    refused: Mapping[str, int]
    evicted: int
    address_blocks: int
    blocked_addresses: int
    draining: bool
    blocks: int = 0
    audit: AuditStatistics | None = None
