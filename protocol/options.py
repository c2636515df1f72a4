"""What a server offers and allows, as its sessions need to know it."""

from __future__ import annotations

import attrs

from protocol.messages import HeartbeatMode, Limits


@attrs.frozen(kw_only=True)
class ProtocolOptions:
    """What the server offers and allows; durations in seconds.

    ``auth_aliases`` are types that count as `auth` before READY. ``heartbeat`` is for clients that
    ask for neither form. ``messages_per_second`` and
    ``bytes_per_second`` have a burst of twice their size, the latter of one message at the least;
    beyond that as much again is refused before the session is closed.
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
    def limits(self) -> Limits:
        """The part of it that `ready` tells the client."""
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
