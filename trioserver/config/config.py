"""The whole configuration of a server."""

# ruff: noqa: RUF009 -- all of these classes are frozen

from __future__ import annotations

import attrs

from trioserver.config.connections import (
    AuthConfig,
    HandlerConfig,
    HeartbeatConfig,
    SendQueueConfig,
)
from trioserver.config.limits import LimitsConfig
from trioserver.config.listeners import ListenConfig, Listener, TLSConfig
from trioserver.config.operations import (
    AdminConfig,
    AuditConfig,
    HttpConfig,
    LogConfig,
    ShutdownConfig,
    TracingConfig,
)
from trioserver.config.peers import OriginConfig, ProxyConfig


@attrs.frozen(kw_only=True)
class Config(Listener):
    """All options of a server.

    ``host``, ``port`` and the other options of `Listener` describe a single listener. ``listen``,
    if not empty, lists all listeners in place of it.
    """

    listen: tuple[ListenConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    limits: LimitsConfig = LimitsConfig()
    origins: OriginConfig = OriginConfig()
    proxy: ProxyConfig = ProxyConfig()
    handlers: HandlerConfig = HandlerConfig()
    send_queue: SendQueueConfig = SendQueueConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    http: HttpConfig = HttpConfig()
    audit: AuditConfig = AuditConfig()
    admin: AdminConfig = AdminConfig()
    tls: TLSConfig = TLSConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()

    def __attrs_post_init__(self) -> None:
        listeners = self.listeners  # raises ValueError now, not when the server starts
        if not self.proxy.trusted and any(where.proxy_protocol for where in listeners):
            raise ValueError(
                "proxy_protocol is set without proxy.trusted, so every connection would be "
                "dropped; set proxy.trusted to the networks of the proxies"
            )
        limits, send_queue = self.limits, self.send_queue.max_bytes
        one = (limits.max_message_bytes + limits.max_queued_bytes + send_queue) * 4 // 3
        if limits.max_memory_bytes < one:
            raise ValueError(
                f"limits.max_memory_bytes is {limits.max_memory_bytes}; it must be at least {one}, "
                "so that one connection fits: 4/3 of the sum of limits.max_message_bytes, "
                "limits.max_queued_bytes and send_queue.max_bytes"
            )

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        """All listeners, at least one."""
        if self.listen:
            return self.listen
        names = attrs.fields_dict(Listener)
        return (ListenConfig(**{name: getattr(self, name) for name in names}),)
