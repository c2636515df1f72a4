"""`ProtocolOptions`: what a server offers and allows on each connection."""

from __future__ import annotations

import attrs

from protocol.fields import HEARTBEAT_MODES, SUBPROTOCOL, HeartbeatMode
from protocol.messages import HeartbeatInfo, Hello, Limits
from protocol.times import milliseconds


@attrs.frozen(kw_only=True)
class ProtocolOptions:
    """What a server offers and allows. Durations are in seconds.

    ``auth_aliases`` are message types that are accepted as `auth` before READY. ``heartbeat`` is
    used for clients that do not ask for a mode. ``messages_per_second`` and ``bytes_per_second``
    allow a burst of twice their value, the latter at least one message of the maximum size. A
    client that exceeds them by as much again is disconnected; before that its messages are
    rejected.
    """

    auth_timeout: float = 10.0
    greeting: str | None = None
    auth_aliases: frozenset[str] = frozenset()
    heartbeat: HeartbeatMode = "frame"
    heartbeat_interval: float = 30.0
    heartbeat_timeout: float = 10.0
    expiry_warning: float = 60.0
    max_message_bytes: int = 1024 * 1024
    max_message_bytes_before_ready: int = 16 * 1024
    max_server_message_bytes: int = 1024 * 1024
    max_in_flight: int = 256
    max_streams: int = 32
    max_subscriptions: int = 1000
    messages_per_second: int = 1000
    bytes_per_second: int = 8 * 1024 * 1024
    control_frames_per_second: int = 50

    @property
    def hello(self) -> Hello:
        """The first message to each client."""
        return Hello(
            protocol=SUBPROTOCOL,
            auth_timeout_ms=milliseconds(self.auth_timeout),
            message=self.greeting,
        )

    @property
    def limits(self) -> Limits:
        """The limits that `ready` tells the client."""
        return Limits(
            max_message_bytes=self.max_message_bytes,
            max_server_message_bytes=self.max_server_message_bytes,
            max_in_flight=self.max_in_flight,
            max_streams=self.max_streams,
            max_subscriptions=self.max_subscriptions,
            messages_per_second=self.messages_per_second,
            bytes_per_second=self.bytes_per_second,
            control_frames_per_second=self.control_frames_per_second,
        )

    def heartbeat_mode(self, requested: str | None) -> HeartbeatMode:
        """The mode that a client gets that has requested this one."""
        return next((mode for mode in HEARTBEAT_MODES if mode == requested), self.heartbeat)

    def heartbeat_info(self, mode: HeartbeatMode) -> HeartbeatInfo:
        """The heartbeat that `ready` tells the client."""
        return HeartbeatInfo(
            mode=mode,
            interval_ms=milliseconds(self.heartbeat_interval),
            timeout_ms=milliseconds(self.heartbeat_timeout),
        )
