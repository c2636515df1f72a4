"""What an operator can set: one frozen class for each concern. Durations are in seconds.

Each option says what it is for in its metadata, which `trioserver config` prints and
docs/configuration.md is made from. A wrong value raises `ValueError` with the option's name, the
value, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from trioserver.peers.addresses import Networks
from trioserver.peers.origins import OriginPolicy

_DAY = 86400.0
_MIB = 1024 * 1024


def _bounded(low: float, high: float, *, whole: bool) -> Callable[[Any, Any, Any], None]:
    """A validator: ``low <= value <= high``. Not-a-number is outside of everything."""
    kinds = int if whole else (int, float)

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if not (good and low <= value <= high):
            raise ValueError(f"{attribute.name} is {value!r}; it must be from {low} to {high}")

    return check


def _number(default: float, low: float, high: float, unit: str, help: str, whole: bool) -> Any:
    metadata = {"help": help, "unit": unit, "low": low, "high": high}
    return attrs.field(
        default=default, validator=_bounded(low, high, whole=whole), metadata=metadata
    )


def _seconds(default: float, low: float, high: float, help: str) -> Any:
    return _number(default, low, high, "s", help, whole=False)


def _count(default: int, low: int, high: int, unit: str, help: str) -> Any:
    return _number(default, low, high, unit, help, whole=True)


def _bytes(default: int, low: int, high: int, help: str) -> Any:
    return _number(default, low, high, "bytes", help, whole=True)


def _flag(default: bool, help: str) -> Any:
    return attrs.field(default=default, validator=_is_flag, metadata={"help": help, "unit": ""})


def _is_flag(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} is {value!r}; it must be true or false")


def _texts(help: str, parse: Callable[[tuple[str, ...]], Any], allowed: str) -> Any:
    """A list of texts that ``parse`` takes; it raises `ValueError` for those it does not."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
        try:
            if not all(isinstance(text, str) for text in value):
                raise ValueError(f"{value!r} is no list of texts")
            parse(value)
        except ValueError as error:
            raise ValueError(f"{attribute.name}: {error}") from None

    metadata = {"help": help, "unit": "", "allowed": allowed}
    return attrs.field(default=(), converter=_to_tuple, validator=check, metadata=metadata)


def _to_tuple(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _text(default: str, help: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{attribute.name} is {value!r}; it must be text, not empty")

    return attrs.field(default=default, validator=check, metadata={"help": help})


def _to_text(value: str | None) -> str | None:
    return value or None


def _choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise ValueError(
                f"{attribute.name} is {value!r}; it must be one of {', '.join(choices)}"
            )

    metadata = {"help": help, "unit": "", "choices": choices}
    return attrs.field(default=default, validator=check, metadata=metadata)


def _to_path(value: str | Path | None) -> Path | None:
    return None if value is None or value == "" else Path(value)


@attrs.frozen(kw_only=True)
class _Listener:
    """The options of a listener, which `ListenConfig` and `Config` have in common."""

    host: str = attrs.field(
        default="127.0.0.1",
        metadata={
            "help": "An address, or a name that resolves to some. 0.0.0.0 and :: are all of this "
            "machine's."
        },
    )
    port: int = attrs.field(
        default=8765,
        validator=_bounded(0, 65535, whole=True),
        metadata={
            "unit": "",
            "low": 0,
            "high": 65535,
            "help": "The TCP port; 0 picks a free one.",
        },
    )
    unix_path: Path | None = attrs.field(
        default=None,
        converter=_to_path,
        metadata={"help": "A Unix socket's file, in place of host and port. None: TCP."},
    )
    systemd_socket: str | None = attrs.field(
        default=None,
        converter=_to_text,
        metadata={
            "help": "The name (FileDescriptorName=) of sockets that systemd has opened for this "
            "listener, in place of host, port and unix_path; * is all of them. None: none."
        },
    )
    reuse_port: bool = _flag(
        False,
        "Let other processes of the same user listen on this port as well (SO_REUSEPORT), for a "
        "restart without a gap.",
    )
    proxy_protocol: bool = _flag(
        False,
        "Each connection begins with a header of the PROXY protocol, version 1 or 2, from a proxy "
        "of proxy.trusted; one that does not is dropped.",
    )
    certificate: Path | None = attrs.field(
        default=None,
        converter=_to_path,
        metadata={
            "help": "The certificate chain in PEM. With it and its key, TLS 1.2 and up. None: no "
            "TLS."
        },
    )
    key: Path | None = attrs.field(
        default=None,
        converter=_to_path,
        metadata={"help": "The certificate's private key in PEM, unencrypted. None: no TLS."},
    )
    client_ca: Path | None = attrs.field(
        default=None,
        converter=_to_path,
        metadata={
            "help": "Certificates of CAs in PEM: clients are asked for a certificate that one of "
            "them has issued. None: they are not asked."
        },
    )
    client_certificates: str = _choice(
        "required",
        ("required", "optional"),
        "Where there is a client_ca: whether a client without a certificate is turned away in the "
        "TLS handshake. One with a bad certificate always is.",
    )


# What a Unix socket cannot have, and why.
_TCP_ONLY: Final = {
    "certificate": "TLS is for TCP",
    "systemd_socket": "systemd has bound its sockets already",
    "reuse_port": "a Unix socket's file has one owner",
}


@attrs.frozen(kw_only=True)
class ListenConfig(_Listener):
    """Where to accept connections: TCP, TLS over TCP, a Unix socket, or one that systemd passes."""

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs TLS: set certificate and key as well")
        if self.unix_path is None:
            return
        for name in ("certificate", "systemd_socket", "reuse_port"):
            if getattr(self, name):
                raise ValueError(f"unix_path and {name} exclude each other: {_TCP_ONLY[name]}")


@attrs.frozen(kw_only=True)
class AuthConfig:
    """How long authentication may take, and what happens as a token ends."""

    timeout: float = _seconds(
        10.0, 0.1, 300.0, "For everything from the accepted handshake to the sent `ready`."
    )
    ownership_timeout: float = _seconds(
        5.0, 0.01, 300.0, "For one verification that the user owns the resource."
    )
    expiry_warning: float = _seconds(
        60.0,
        0.0,
        _DAY,
        "How long before a token's expiry the client is warned; half of what is left, where less "
        "is left.",
    )


@attrs.frozen(kw_only=True)
class HeartbeatConfig:
    """A ping each ``interval``; a client that is silent for ``timeout`` after it is closed."""

    interval: float = _seconds(30.0, 0.1, _DAY, "From one ping to the next.")
    timeout: float = _seconds(
        10.0, 0.1, 3600.0, "A client that is silent for so long after a ping is closed."
    )


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """What is taken from peers."""

    connections: int = _count(
        10_000, 1, 1_000_000, "connections", "Open connections, those in the handshake included."
    )
    unauthenticated: int = _count(
        1_000, 1, 1_000_000, "connections", "Open connections that are not authenticated yet."
    )
    unauthenticated_per_address: int = _count(
        50,
        1,
        1_000_000,
        "connections",
        "The same of one address, an IPv6 network of 64 bits being one; the oldest gives way.",
    )
    unauthenticated_grace: float = _seconds(
        2.0,
        0.0,
        300.0,
        "For so long a new connection gives way only where all places are taken, not to others of "
        "its address.",
    )
    connections_per_user: int = _count(
        100, 1, 1_000_000, "connections", "Of one user; the oldest gives way: `superseded`."
    )
    handshakes_per_second: int = _count(
        100,
        1,
        1_000_000,
        "handshakes",
        "Of one address; a burst may be ten times as many. Beyond: HTTP 429.",
    )
    forged_tokens: int = _count(
        20,
        1,
        1_000_000,
        "tokens",
        "So many answers `token_invalid` within forged_tokens_window block an address; one that is "
        "authenticated in between starts the count anew.",
    )
    forged_tokens_window: float = _seconds(
        60.0, 1.0, _DAY, "The time in which a count of forged tokens is forgotten."
    )
    block_time: float = _seconds(
        15.0,
        0.0,
        _DAY,
        "An address is blocked for so long, and cannot be again for as long after it. 0: never.",
    )
    addresses: int = _count(
        10_000, 1, 10_000_000, "addresses", "How many are remembered, some 500 bytes each."
    )
    head_bytes: int = _bytes(16 * 1024, 512, _MIB, "The head of the HTTP request.")
    head_timeout: float = _seconds(
        5.0, 0.1, 300.0, "For the head of the request to arrive, TLS handshake included."
    )
    message_bytes: int = _bytes(_MIB, 128, 1024 * _MIB, "One message.")
    message_bytes_before_ready: int = _bytes(
        16 * 1024, 128, _MIB, "One message of a client that is not authenticated yet."
    )
    messages_per_second: int = _count(
        1_000, 1, 10_000_000, "messages", "From one client; a burst may be twice as many."
    )
    bytes_per_second: int = _count(
        8 * _MIB,
        1024,
        1024 * _MIB,
        "bytes",
        "Of messages from one client; a burst may be twice as many, or one message.",
    )
    in_flight: int = _count(
        256, 1, 100_000, "requests", "Requests of one connection that are not answered yet."
    )
    streams: int = _count(32, 1, 10_000, "streams", "Streams of one connection at a time.")
    queue: int = _count(
        64,
        1,
        100_000,
        "messages",
        "Messages of one connection that wait for `async def` handlers; beyond, reading pauses.",
    )
    subscriptions: int = _count(1_000, 0, 1_000_000, "topics", "Subscriptions of one connection.")


@attrs.frozen(kw_only=True)
class OriginConfig:
    """Which web pages may connect; clients that send no Origin header are no web pages."""

    allow: tuple[str, ...] = _texts(
        "As `https://example.org` or `https://*.example.org`, which is all below it; `same-host` "
        "is the host that is connected to, and `*` is every page. None: `same-host`.",
        OriginPolicy,
        "a list of origins",
    )


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """Proxies in front of the server, whose word is taken for who the client is."""

    trusted: tuple[str, ...] = _texts(
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


@attrs.frozen(kw_only=True)
class HandlerConfig:
    """How long handlers may take; beyond it the request is answered ``unavailable``."""

    timeout: float = _seconds(30.0, 0.01, _DAY, "For an `async def` handler, or a hook.")
    chunk_timeout: float = _seconds(60.0, 0.01, _DAY, "For the next value of a stream.")
    slow_inline: float = _seconds(
        0.02,
        0.0001,
        3600.0,
        "A `def` handler that holds up all others for longer is counted, and named in a warning.",
    )


@attrs.frozen(kw_only=True)
class OutboxConfig:
    """What may wait for one slow client; beyond it the client is closed: ``slow_consumer``."""

    max_bytes: int = _bytes(_MIB, 1024, 1024 * _MIB, "All that waits to be sent to one client.")
    max_age: float = _seconds(10.0, 0.1, 3600.0, "How long anything waits to be sent to it.")


@attrs.frozen(kw_only=True)
class ShutdownConfig:
    """How the server and its connections end."""

    drain_period: float = _seconds(
        10.0, 0.0, 3600.0, "Clients are sent away over this time, each in a slot of its own."
    )
    close_timeout: float = _seconds(
        5.0, 0.1, 300.0, "For the closing handshake of a connection that was ready."
    )
    close_timeout_before_ready: float = _seconds(
        1.0, 0.1, 60.0, "For the closing handshake of a connection that was not ready."
    )


LOG_FORMATS: Final = ("auto", "text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@attrs.frozen(kw_only=True)
class LogConfig:
    """What a program that serves writes to stderr. An embedding program logs as it likes."""

    format: str = _choice(
        "auto", LOG_FORMATS, "`auto` is coloured text on a terminal, and JSON lines elsewhere."
    )
    level: str = _choice(
        "info",
        LOG_LEVELS,
        "For the server and the application; other libraries are heard from warning on.",
    )


@attrs.frozen(kw_only=True)
class TracingConfig:
    """Spans for a tracing system, by OpenTelemetry, which is the extra ``otel``."""

    spans: str = _choice(
        "off",
        ("off", "on"),
        "Whether handshakes, authentications, ownership checks and handlers make spans, with the "
        "tracer provider of the process.",
    )


@attrs.frozen(kw_only=True)
class TLSConfig:
    """How certificates are kept up to date."""

    check_interval: float = _seconds(
        10.0,
        0.1,
        _DAY,
        "How often it is looked whether the files of a certificate have changed; new handshakes "
        "then use the new ones.",
    )


@attrs.frozen(kw_only=True)
class HttpConfig:
    """HTTP on the port of the WebSockets; it needs the extra ``http``. ``builtin_listen``, when
    given, is a listener of its own for the built-in routes, which are not served elsewhere then.
    """

    health: bool = _flag(True, "Serve `/healthz` and `/readyz`.")
    metrics: bool = _flag(True, "Serve `/metrics`, where the server has metrics.")
    admin: bool = _flag(True, "Serve `/api/v1/admin`, where the server has an administration.")
    protocol: bool = _flag(True, "Serve `/protocol`, a page to read, and `/asyncapi.json`.")
    connections: int = _count(
        1_000,
        1,
        1_000_000,
        "connections",
        "Open HTTP connections; at this number an idle one gives way, else the oldest.",
    )
    body_bytes: int = _bytes(16 * _MIB, 0, 1024 * _MIB, "The body of one request.")
    body_timeout: float = _seconds(
        10.0, 0.1, 3600.0, "For the next piece of a request's body to arrive."
    )
    response_timeout: float = _seconds(
        60.0,
        0.1,
        _DAY,
        "For an application to take a piece of the body, and to begin its answer; also for what it "
        "does after the connection has ended.",
    )
    send_timeout: float = _seconds(
        10.0, 0.1, 3600.0, "For the client to take 64 KiB of an answer, or what is left of it."
    )
    keep_alive_timeout: float = _seconds(
        15.0, 0.1, 3600.0, "From one answer to the first byte of the next request."
    )
    check_timeout: float = _seconds(2.0, 0.01, 60.0, "For all checks of `/readyz`, side by side.")
    builtin_listen: ListenConfig | None = None

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        """What there is besides the listeners of the WebSockets."""
        return () if self.builtin_listen is None else (self.builtin_listen,)


@attrs.frozen(kw_only=True)
class AuditConfig:
    """What is recorded of authentication and administration, and kept of blocks, in a database."""

    database: str | None = attrs.field(
        default=None,
        converter=_to_text,
        repr=False,
        metadata={
            "help": "A path or sqlite:///... for SQLite, or postgresql://... None: nothing is "
            "recorded, and blocks last as long as the process."
        },
    )
    queue: int = _count(
        10_000,
        1,
        1_000_000,
        "rows",
        "Rows that are kept while the database is away; those beyond it are counted as lost.",
    )
    batch: int = _count(500, 1, 10_000, "rows", "Rows that are written in one transaction.")
    flush_interval: float = _seconds(
        1.0, 0.01, 60.0, "How long a row may wait for others, to be written along with them."
    )
    flush_timeout: float = _seconds(
        5.0, 0.0, 300.0, "For writing what is left in the queue as the server ends."
    )
    retention: float = _seconds(
        90 * _DAY, 60.0, 3650 * _DAY, "The age at which rows are deleted; 7776000 s are 90 days."
    )
    block_refresh: float = _seconds(
        5.0, 0.1, 3600.0, "How often blocks that another server has made or lifted are looked for."
    )


@attrs.frozen(kw_only=True)
class AdminConfig:
    """Who may use the administration, and how much it takes."""

    role_claim: str = _text(
        "role", "The claim that holds an administrator's role: text, or a list of texts."
    )
    role: str = _text("admin", "The role that lets in.")
    body_bytes: int = _bytes(64 * 1024, 1024, 16 * _MIB, "The body of one request.")
    body_timeout: float = _seconds(10.0, 0.1, 300.0, "For the body of a request to arrive.")


@attrs.frozen(kw_only=True)
class Config(_Listener):
    """Everything. ``host``, ``port`` and the like stand for one listener; ``listen``, when given,
    lists them all instead.
    """

    listen: tuple[ListenConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    limits: LimitsConfig = LimitsConfig()
    origins: OriginConfig = OriginConfig()
    proxy: ProxyConfig = ProxyConfig()
    handlers: HandlerConfig = HandlerConfig()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    http: HttpConfig = HttpConfig()
    audit: AuditConfig = AuditConfig()
    admin: AdminConfig = AdminConfig()
    tls: TLSConfig = TLSConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()

    def __attrs_post_init__(self) -> None:
        listeners = self.listeners  # what is wrong with them is said now, not at the start
        if not self.proxy.trusted and any(where.proxy_protocol for where in listeners):
            raise ValueError(
                "proxy_protocol without proxy.trusted would drop every connection: say which "
                "networks the proxies are in"
            )

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        """All the places to listen on, at least one."""
        if self.listen:
            return self.listen
        names = attrs.fields_dict(_Listener)
        return (ListenConfig(**{name: getattr(self, name) for name in names}),)
