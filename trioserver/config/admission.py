"""How much is taken of whom, from which pages, and behind which proxies."""

from __future__ import annotations

from typing import Any

import attrs

from trioserver.config.fields import DAY, MIB, count, in_bytes, seconds, texts
from trioserver.peers.addresses import Networks
from trioserver.peers.hosts import HostPolicy
from trioserver.peers.origins import OriginPolicy


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """What is taken from peers."""

    max_connections: int = count(
        10_000,
        1,
        1_000_000,
        "connections",
        "Open connections. READY ones are never evicted; where they alone are as many, newcomers "
        "are refused. 64 more may be there for a moment: unauthenticated, or being closed.",
    )
    max_unauthenticated: int = count(
        1_000, 1, 1_000_000, "connections", "Open connections that are not authenticated yet."
    )
    max_unauthenticated_per_address: int = count(
        50,
        1,
        1_000_000,
        "connections",
        "The same of one address, an IPv6 network of 64 bits being one; the oldest gives way.",
    )
    unauthenticated_grace: float = seconds(
        2.0,
        0.0,
        300.0,
        "For so long a new connection gives way only where all places are taken, not to others of "
        "its address.",
    )
    max_connections_per_user: int = count(
        100, 1, 1_000_000, "connections", "Of one user; the oldest gives way: `superseded`."
    )
    handshakes_per_second: int = count(
        100,
        1,
        1_000_000,
        "handshakes",
        "Of one address; a burst may be ten times as many. Beyond: HTTP 429.",
    )
    requests_per_second: int = count(
        200,
        1,
        1_000_000,
        "requests",
        "HTTP requests of one address; a burst may be ten times as many. Beyond: HTTP 429.",
    )
    max_invalid_tokens: int = count(
        20,
        1,
        1_000_000,
        "tokens",
        "So many answers `token_invalid` within invalid_token_window block an address; one that is "
        "authenticated in between starts the count anew.",
    )
    invalid_token_window: float = seconds(
        60.0, 1.0, DAY, "The time in which a count of forged tokens is forgotten."
    )
    ban_duration: float = seconds(
        15.0,
        0.0,
        DAY,
        "An address is blocked for so long, and cannot be again for as long after it. 0: never.",
    )
    max_tracked_addresses: int = count(
        10_000, 1, 10_000_000, "addresses", "How many are remembered, some 500 bytes each."
    )
    max_head_bytes: int = in_bytes(16 * 1024, 512, MIB, "The head of the HTTP request.")
    head_timeout: float = seconds(
        5.0, 0.1, 300.0, "For the head of the request to arrive, TLS handshake included."
    )
    max_message_bytes: int = in_bytes(MIB, 128, 1024 * MIB, "One message.")
    max_message_bytes_before_ready: int = in_bytes(
        16 * 1024,
        128,
        MIB,
        "One message of a client that is not authenticated yet, its token included; and the token "
        "of a refresh.",
    )
    messages_per_second: int = count(
        1_000, 1, 10_000_000, "messages", "From one client; a burst may be twice as many."
    )
    bytes_per_second: int = count(
        8 * MIB,
        1024,
        1024 * MIB,
        "bytes",
        "Of messages from one client; a burst may be twice as many, or one message.",
    )
    control_frames_per_second: int = count(
        50,
        1,
        1_000_000,
        "frames",
        "Pings and pongs from one client, WebSocket frames; a burst may be twice as many, and a "
        "tenth before it is authenticated. Beyond: `rate_limited`.",
    )
    max_in_flight: int = count(
        256, 1, 100_000, "requests", "Requests of one connection that are not answered yet."
    )
    max_streams: int = count(32, 1, 10_000, "streams", "Streams of one connection at a time.")
    max_queued_messages: int = count(
        64,
        1,
        100_000,
        "messages",
        "Messages of one connection that wait for `async def` handlers; beyond, reading pauses.",
    )
    max_queued_bytes: int = in_bytes(
        MIB, 1024, 1024 * MIB, "The same in bytes; what one read gives comes on top of it."
    )
    max_memory_bytes: int = in_bytes(
        256 * MIB,
        MIB,
        1024 * 1024 * MIB,
        "What all connections of a process may hold together in queues and outboxes. From three "
        "quarters of it on, those that hold most are not read from; beyond it they are closed, "
        "with `slow_consumer` or `server_busy`.",
    )
    max_subscriptions: int = count(
        1_000, 0, 1_000_000, "topics", "Subscriptions of one connection."
    )


@attrs.frozen(kw_only=True)
class OriginConfig:
    """Which web pages may connect, and by which names the server is known. Clients that send no
    Origin header are no web pages."""

    allow: tuple[str, ...] = texts(
        "As `https://example.org` or `https://*.example.org`, which is all below it; `same-host` "
        "is the host that is connected to, and `*` is every page. None: `same-host`.",
        OriginPolicy,
        "a list of origins",
    )

    hosts: tuple[str, ...] = texts(
        "The names by which the server is asked for, as `chat.example.org`, `*.example.org`, an "
        "address, or `loopback`, which is localhost and the like; requests for any other are "
        "answered 421, health checks aside. None: all names, but over loopback only loopback names "
        "are the `same-host`.",
        HostPolicy,
        "a list of hosts",
    )


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """Proxies in front of the server, whose word is taken for who the client is."""

    trusted: tuple[str, ...] = texts(
        "Their networks or addresses, as `10.0.0.0/8`, and `unix` for those that come by a Unix "
        "socket. None: nobody's word is taken.",
        Networks,
        "a list of networks",
    )
    header: str = attrs.field(
        default="x-forwarded-for",
        metadata={
            "allowed": "x-forwarded-for, forwarded or none",
            "help": "Where they say it: `x-forwarded-for`, `forwarded` (RFC 7239), or `none`. Only "
            "name one that each of them sets: what it leaves alone is the client's invention.",
        },
    )

    @header.validator
    def _check_header(self, _: Any, value: str) -> None:
        if value not in ("x-forwarded-for", "forwarded", "none"):
            raise ValueError(f"header is {value!r}; it must be x-forwarded-for, forwarded or none")
