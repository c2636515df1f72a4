"""What an operator can set: one frozen class for each concern. Durations are in seconds.

Each option says what it is for in its metadata, which `trioserver config` prints and
docs/configuration.md is made from. A wrong value raises `ValueError` with the option's name, the
value, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

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


def _choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            allowed = ", ".join(choices)
            raise ValueError(f"{attribute.name} is {value!r}; it must be one of {allowed}")

    return attrs.field(
        default=default, validator=check, metadata={"help": help, "choices": choices}
    )


def _to_path(value: str | Path | None) -> Path | None:
    return None if value is None or value == "" else Path(value)


# The five options of a listener, which `ListenConfig` and `Config` have in common.
_HOST: Final = {
    "help": "An address, or a name that resolves to some. 0.0.0.0 and :: are all of this machine's."
}
_PORT: Final = {"unit": "", "low": 0, "high": 65535, "help": "The TCP port; 0 picks a free one."}
_UNIX_PATH: Final = {"help": "A Unix socket's file, in place of host and port. None: TCP."}
_CERTIFICATE: Final = {
    "help": "The certificate chain in PEM. With it and its key, TLS 1.2 and up. None: no TLS."
}
_KEY: Final = {"help": "The certificate's private key in PEM, unencrypted. None: no TLS."}


@attrs.frozen(kw_only=True)
class ListenConfig:
    """Where to accept connections: TCP, TLS over TCP, or a Unix socket."""

    host: str = attrs.field(default="127.0.0.1", metadata=_HOST)
    port: int = attrs.field(default=8765, validator=_bounded(0, 65535, whole=True), metadata=_PORT)
    unix_path: Path | None = attrs.field(default=None, converter=_to_path, metadata=_UNIX_PATH)
    certificate: Path | None = attrs.field(default=None, converter=_to_path, metadata=_CERTIFICATE)
    key: Path | None = attrs.field(default=None, converter=_to_path, metadata=_KEY)

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: set both, or neither")
        if self.unix_path is not None and self.certificate is not None:
            raise ValueError("unix_path and certificate exclude each other: TLS is for TCP")


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
class Config:
    """Everything. ``host``, ``port`` and the like stand for one listener; ``listen``, when given,
    lists them all instead.
    """

    host: str = attrs.field(default="127.0.0.1", metadata=_HOST)
    port: int = attrs.field(default=8765, validator=_bounded(0, 65535, whole=True), metadata=_PORT)
    unix_path: Path | None = attrs.field(default=None, converter=_to_path, metadata=_UNIX_PATH)
    certificate: Path | None = attrs.field(default=None, converter=_to_path, metadata=_CERTIFICATE)
    key: Path | None = attrs.field(default=None, converter=_to_path, metadata=_KEY)
    listen: tuple[ListenConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    limits: LimitsConfig = LimitsConfig()
    handlers: HandlerConfig = HandlerConfig()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()

    def __attrs_post_init__(self) -> None:
        self.listeners  # noqa: B018 -- what is wrong with them is said now, not at the start

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        """All the places to listen on, at least one."""
        return self.listen or (
            ListenConfig(
                host=self.host,
                port=self.port,
                unix_path=self.unix_path,
                certificate=self.certificate,
                key=self.key,
            ),
        )
