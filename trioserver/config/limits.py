"""Limits on connections, rates, message sizes and memory."""

from __future__ import annotations

import attrs

from trioserver.config.fields import DAY, MIB, count, in_bytes, seconds


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """Limits on connections, rates, message sizes and memory."""

    max_connections: int = count(
        10_000,
        1,
        1_000_000,
        "connections",
        "Maximum open connections of the server. When it is exceeded, a connection that is not "
        "ready is evicted; if all are ready, the new one is rejected with `server_busy`. Up to 64 "
        "more exist for a moment while they authenticate or close. Raise the limit of open files "
        "along with it.",
    )
    max_unauthenticated: int = count(
        1_000,
        1,
        1_000_000,
        "connections",
        "Maximum connections that are not authenticated yet. When it is exceeded, the oldest one "
        "that has sent nothing is evicted. Raise it if more clients than this reconnect at the "
        "same moment; each needs about 20 KiB.",
    )
    max_unauthenticated_per_address: int = count(
        50,
        1,
        1_000_000,
        "connections",
        "Maximum connections of one address that are not authenticated yet; an IPv6 /64 network "
        "counts as one address. When it is exceeded, the oldest one of that address is evicted.",
    )
    unauthenticated_grace: float = seconds(
        2.0,
        0.0,
        300.0,
        "Time after a connection is accepted during which max_unauthenticated_per_address does not "
        "evict it; max_unauthenticated still does. 0 gives no such protection. Raise it if many "
        "clients of one address need longer to authenticate.",
    )
    max_connections_per_user: int = count(
        100,
        1,
        1_000_000,
        "connections",
        "Maximum ready connections of one user. When it is exceeded, the user's oldest connection "
        "is closed with `superseded`.",
    )
    handshakes_per_second: int = count(
        100,
        1,
        1_000_000,
        "handshakes",
        "Maximum WebSocket handshakes per second from one address, with bursts of up to ten times "
        "as many. A handshake above it gets HTTP 429.",
    )
    requests_per_second: int = count(
        200,
        1,
        1_000_000,
        "requests",
        "Maximum HTTP requests per second from one address, with bursts of up to ten times as "
        "many. A request above it gets HTTP 429.",
    )
    max_invalid_tokens: int = count(
        20,
        1,
        1_000_000,
        "tokens",
        "Number of tokens refused with `token_invalid` within invalid_token_window after which an "
        "address is banned for ban_duration. A successful authentication from the address resets "
        "the count.",
    )
    invalid_token_window: float = seconds(
        60.0,
        1.0,
        DAY,
        "Time in which max_invalid_tokens invalid tokens ban an address. Raise it to ban addresses "
        "that try more slowly.",
    )
    ban_duration: float = seconds(
        15.0,
        0.0,
        DAY,
        "Time for which an address is banned after max_invalid_tokens. It cannot be banned again "
        "for the same time afterwards. 0 disables bans.",
    )
    max_tracked_addresses: int = count(
        10_000,
        1,
        10_000_000,
        "addresses",
        "Maximum addresses for which rates, invalid tokens and bans are remembered, at about 500 "
        "bytes each. When it is exceeded, the address seen longest ago is forgotten.",
    )
    max_head_bytes: int = in_bytes(
        16 * 1024,
        512,
        MIB,
        "Maximum size of an HTTP request's head (request line and headers). A larger one is "
        "answered with HTTP 431.",
    )
    head_timeout: float = seconds(
        5.0,
        0.1,
        300.0,
        "Time in which the head of an HTTP request must arrive, TLS handshake included; otherwise "
        "the connection is closed.",
    )
    max_message_bytes: int = in_bytes(
        MIB,
        128,
        1024 * MIB,
        "Maximum size of one message from a client. A larger one closes the connection with "
        "`message_too_big`.",
    )
    max_message_bytes_before_ready: int = in_bytes(
        16 * 1024,
        128,
        MIB,
        "Maximum size of a message before authentication, which limits the size of a token; also "
        "the maximum size of a token that refreshes an old one. Raise it if your tokens are "
        "larger.",
    )
    messages_per_second: int = count(
        1_000,
        1,
        10_000_000,
        "messages",
        "Maximum messages per second from one connection, with bursts of up to twice as many. A "
        "request above it is answered `rate_limited`; if the client goes on, the connection is "
        "closed.",
    )
    bytes_per_second: int = count(
        8 * MIB,
        1024,
        1024 * MIB,
        "bytes",
        "Maximum message bytes per second from one connection, with bursts of up to twice as many "
        "or one message of any allowed size. Above it the connection gets `rate_limited`.",
    )
    control_frames_per_second: int = count(
        50,
        1,
        1_000_000,
        "frames",
        "Maximum WebSocket Ping and Pong frames per second from one connection, with bursts of up "
        "to twice as many; a tenth of it before authentication. Above it the connection is closed "
        "with `rate_limited`.",
    )
    max_in_flight: int = count(
        256,
        1,
        100_000,
        "requests",
        "Maximum unanswered requests of one connection. A request above it is answered "
        "`too_many_in_flight`.",
    )
    max_streams: int = count(
        32,
        1,
        10_000,
        "streams",
        "Maximum streams of one connection that run at the same time. A request for another is "
        "answered `too_many_in_flight`.",
    )
    max_queued_messages: int = count(
        64,
        1,
        100_000,
        "messages",
        "Maximum messages of one connection that wait for `async def` handlers. While it is "
        "reached, the server does not read from the connection.",
    )
    max_queued_bytes: int = in_bytes(
        MIB,
        1024,
        1024 * MIB,
        "Maximum bytes of one connection's messages that wait for `async def` handlers, plus the "
        "bytes of one read. While it is reached, the server does not read from the connection.",
    )
    max_memory_bytes: int = in_bytes(
        256 * MIB,
        MIB,
        1024 * 1024 * MIB,
        "Maximum bytes in the queues of all connections of the process together, in both "
        "directions. From three quarters of it, the server stops reading from the connections that "
        "hold most; above it, it closes them with `slow_consumer` or `server_busy`.",
    )
    max_subscriptions: int = count(
        1_000,
        0,
        1_000_000,
        "topics",
        "Maximum topics that one connection may be subscribed to; 0 allows no subscription.",
    )
