"""A snapshot of a server in a few numbers, for programs, the administration and the metrics."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from trioserver.telemetry.audit import AuditStatistics


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot of a server. Counters are from its start on.

    - ``open``: open connections. ``unauthenticated``, ``ready`` and ``http`` are parts of them.
    - ``accepted``: counter of accepted connections.
    - ``rejected``: counters of clients that were rejected before they were ready, by reason: an
      error code, ``http_STATUS``, or `Rejection.code`. The metric ``rejected_total``.
    - ``closed``: counters of WebSocket connections that have ended, by error code, or
      ``client_disconnected``. The metric ``connections_closed_total``.
    - ``evicted``: counter of connections that were evicted to make room for others.
    - ``address_bans``: counter of bans. ``banned_addresses``: addresses that are banned now.
    - ``access_blocks``: blocks of users, sessions, tokens and resources that are in force.
    - ``topics``: topics that have subscribers.
    - ``memory_bytes``: bytes in all queues. ``memory_waiting``: connections that the server does
      not read from because of it. ``memory_closed``: counter of connections closed because of it.
    - ``draining``: whether the server is draining.
    - ``audit``: None if nothing is recorded.
    """

    open: int
    unauthenticated: int
    ready: int
    http: int
    accepted: int
    topics: int
    rejected: Mapping[str, int]
    closed: Mapping[str, int]
    evicted: int
    address_bans: int
    banned_addresses: int
    draining: bool
    access_blocks: int = 0
    memory_bytes: int = 0
    memory_waiting: int = 0
    memory_closed: int = 0
    audit: AuditStatistics | None = None
