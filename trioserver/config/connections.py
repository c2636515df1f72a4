"""What a connection goes through: authentication, heartbeat, handlers, outbox."""

from __future__ import annotations

import attrs

from trioserver.config.fields import DAY, MIB, in_bytes, seconds


@attrs.frozen(kw_only=True)
class AuthConfig:
    """How long authentication may take, and what happens as a token ends."""

    timeout: float = seconds(
        10.0, 0.1, 300.0, "For everything from the accepted handshake to the sent `ready`."
    )
    ownership_timeout: float = seconds(
        5.0, 0.01, 300.0, "For one verification that the user owns the resource."
    )
    expiry_warning: float = seconds(
        60.0,
        0.0,
        DAY,
        "How long before a token's expiry the client is warned; half of what is left, where less "
        "is left.",
    )


@attrs.frozen(kw_only=True)
class HeartbeatConfig:
    """A ping each ``interval``; a client that is silent for ``timeout`` after it is closed."""

    interval: float = seconds(30.0, 0.1, DAY, "From one ping to the next.")
    timeout: float = seconds(
        10.0, 0.1, 3600.0, "A client that is silent for so long after a ping is closed."
    )


@attrs.frozen(kw_only=True)
class HandlerConfig:
    """How long handlers may take; beyond it the request is answered ``unavailable``."""

    timeout: float = seconds(30.0, 0.01, DAY, "For an `async def` handler, or a hook.")
    chunk_timeout: float = seconds(60.0, 0.01, DAY, "For the next value of a stream.")
    sync_handler_warn_after: float = seconds(
        0.02,
        0.0001,
        3600.0,
        "A `def` handler that holds up all others for longer is counted, and named in a warning.",
    )


@attrs.frozen(kw_only=True)
class OutboxConfig:
    """What may wait to be sent to one client. Answers wait for room, and reading pauses; a client
    for which what cannot wait goes beyond these is closed: ``slow_consumer``."""

    max_bytes: int = in_bytes(
        2 * MIB,
        1024,
        1024 * MIB,
        "All that waits to be sent to one client. The largest message it is sent is smaller by "
        "64 KiB, or by a quarter where that is less; one that is larger is refused: "
        "`too_big_to_send`.",
    )
    max_age: float = seconds(
        10.0,
        0.1,
        3600.0,
        "How long anything waits to be sent to it; a message of more than 64 KiB has as long for "
        "each of its pieces, of 64 KiB.",
    )
