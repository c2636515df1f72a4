"""Options of one connection: authentication, heartbeat, handlers, and the queue of what is sent."""

from __future__ import annotations

import attrs

from trioserver.config.fields import DAY, MIB, in_bytes, seconds


@attrs.frozen(kw_only=True)
class AuthConfig:
    """How long authentication may take, and when a client is warned that its token expires."""

    timeout: float = seconds(
        10.0,
        0.1,
        300.0,
        "Time for authentication, from the accepted handshake to the `ready` message, including "
        "token verification and authorization. A client that takes longer is closed with "
        "`auth_timeout`.",
    )
    authorization_timeout: float = seconds(
        5.0,
        0.01,
        300.0,
        "Time for the authorization of one connection. If it takes longer, the client is closed "
        "with `unavailable` and may try again. Keep it below auth.timeout.",
    )
    expiry_warning: float = seconds(
        60.0,
        0.0,
        DAY,
        "How long before its token expires a client gets `auth_expiring`, so that it can send a "
        "new token. If a token has less than twice this time left, the client is warned at half of "
        "what is left. 0 sends no warning.",
    )


@attrs.frozen(kw_only=True)
class HeartbeatConfig:
    """How the server finds out that a client is gone: by pings that are not answered."""

    interval: float = seconds(
        30.0,
        0.1,
        DAY,
        "Time between two pings to a client. Lower it if a proxy closes idle connections sooner.",
    )
    timeout: float = seconds(
        10.0,
        0.1,
        3600.0,
        "Time after a ping within which something must arrive from the client; otherwise it is "
        "closed with `heartbeat_timeout`. Raise it for clients on slow networks.",
    )


@attrs.frozen(kw_only=True)
class HandlerConfig:
    """How long handlers may run. If one takes longer, its request is answered ``unavailable``."""

    timeout: float = seconds(
        30.0,
        0.01,
        DAY,
        "Time for one call of an `async def` handler or a hook. If it takes longer, it is "
        "cancelled and the request is answered `unavailable`.",
    )
    chunk_timeout: float = seconds(
        60.0,
        0.01,
        DAY,
        "Time for a stream to produce its next value. If it takes longer, the stream is cancelled "
        "and ends with `unavailable`.",
    )
    sync_handler_warn_after: float = seconds(
        0.02,
        0.0001,
        3600.0,
        "Duration above which a call of a `def` handler is logged as a warning and counted, "
        "because it blocks all other connections while it runs. Such a handler is not interrupted.",
    )


@attrs.frozen(kw_only=True)
class SendQueueConfig:
    """The queue of messages to one client. If it is full, responses wait and the server stops
    reading from the client; a client whose queue exceeds it with other messages is closed with
    ``slow_consumer``."""

    max_bytes: int = in_bytes(
        2 * MIB,
        1024,
        1024 * MIB,
        "Maximum bytes queued for one client. Above it, the client is closed with `slow_consumer`. "
        "It also limits a single message to 64 KiB less, or three quarters of it if that is more; "
        "a larger one is refused with `too_big_to_send`.",
    )
    max_age: float = seconds(
        10.0,
        0.1,
        3600.0,
        "Maximum time that a message is queued for one client, or that each 64 KiB of a larger "
        "message take. Above it, the client is closed with `slow_consumer`. Raise it for clients "
        "on slow networks.",
    )
