"""What an operator can set: one frozen class for each concern. Durations are in seconds.

A wrong value raises `ValueError` with the option's name, the value, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs

_T = TypeVar("_T", int, float)

_DAY = 86400.0
_MIB = 1024 * 1024


def _bounded(low: _T, high: _T) -> Callable[[Any, attrs.Attribute[_T], _T], None]:
    """A validator: ``low <= value <= high``. Not-a-number is outside of everything."""

    def check(_: Any, attribute: attrs.Attribute[_T], value: _T) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not (good and low <= value <= high):
            raise ValueError(f"{attribute.name} is {value!r}; it must be from {low} to {high}")

    return check


def _to_path(value: str | Path | None) -> Path | None:
    return None if value is None or value == "" else Path(value)


@attrs.frozen(kw_only=True)
class ListenConfig:
    """Where to accept connections: TCP, TLS over TCP, or a Unix socket.

    ``host``: an address or a name that resolves to some; "0.0.0.0" and "::" are all of this
    machine's. ``port``: 0 picks a free one. ``unix_path``: a socket file, in place of host and
    port. ``certificate`` and ``key``: PEM files, both or neither; with them, TLS 1.2 and up.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8765, validator=_bounded(0, 65535))
    unix_path: Path | None = attrs.field(default=None, converter=_to_path)
    certificate: Path | None = attrs.field(default=None, converter=_to_path)
    key: Path | None = attrs.field(default=None, converter=_to_path)

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: set both, or neither")
        if self.unix_path is not None and self.certificate is not None:
            raise ValueError("unix_path and certificate exclude each other: TLS is for TCP")


@attrs.frozen(kw_only=True)
class AuthConfig:
    """How long authentication may take, and what happens as a token ends.

    ``timeout`` covers everything from the accepted handshake to the sent `ready`.
    ``ownership_timeout`` is for one verification of ownership. ``expiry_warning`` is how long
    before a token's expiry the client is warned; half of what is left, where less is left.
    """

    timeout: float = attrs.field(default=10.0, validator=_bounded(0.1, 300.0))
    ownership_timeout: float = attrs.field(default=5.0, validator=_bounded(0.01, 300.0))
    expiry_warning: float = attrs.field(default=60.0, validator=_bounded(0.0, _DAY))


@attrs.frozen(kw_only=True)
class HeartbeatConfig:
    """A ping each ``interval``; a client that is silent for ``timeout`` after it is closed."""

    interval: float = attrs.field(default=30.0, validator=_bounded(0.1, _DAY))
    timeout: float = attrs.field(default=10.0, validator=_bounded(0.1, 3600.0))


@attrs.frozen(kw_only=True)
class LimitsConfig:
    """What is taken from peers. Sizes are in bytes; the rest counts connections or messages.

    ``queue`` is how many messages wait for `async def` handlers before reading pauses;
    ``messages_per_second`` has a burst of twice its size. ``head_timeout`` is for the head of
    the request, TLS handshake included.
    """

    connections: int = attrs.field(default=10_000, validator=_bounded(1, 1_000_000))
    unauthenticated: int = attrs.field(default=1_000, validator=_bounded(1, 1_000_000))
    head_bytes: int = attrs.field(default=16 * 1024, validator=_bounded(512, _MIB))
    head_timeout: float = attrs.field(default=5.0, validator=_bounded(0.1, 300.0))
    message_bytes: int = attrs.field(default=_MIB, validator=_bounded(128, 1024 * _MIB))
    message_bytes_before_ready: int = attrs.field(default=16 * 1024, validator=_bounded(128, _MIB))
    messages_per_second: int = attrs.field(default=1_000, validator=_bounded(1, 10_000_000))
    in_flight: int = attrs.field(default=256, validator=_bounded(1, 100_000))
    streams: int = attrs.field(default=32, validator=_bounded(1, 10_000))
    queue: int = attrs.field(default=64, validator=_bounded(1, 100_000))
    subscriptions: int = attrs.field(default=1_000, validator=_bounded(0, 1_000_000))


@attrs.frozen(kw_only=True)
class HandlerConfig:
    """How long handlers may take.

    ``timeout``: an `async def` handler or hook; ``chunk_timeout``: the next value of a stream.
    Beyond either the request is answered ``unavailable``.
    """

    timeout: float = attrs.field(default=30.0, validator=_bounded(0.01, _DAY))
    chunk_timeout: float = attrs.field(default=60.0, validator=_bounded(0.01, _DAY))


@attrs.frozen(kw_only=True)
class OutboxConfig:
    """What may wait for one slow client: bytes, and for how long. Beyond: ``slow_consumer``."""

    max_bytes: int = attrs.field(default=_MIB, validator=_bounded(1024, 1024 * _MIB))
    max_age: float = attrs.field(default=10.0, validator=_bounded(0.1, 3600.0))


@attrs.frozen(kw_only=True)
class ShutdownConfig:
    """How the server and its connections end.

    ``drain_period``: the time over which clients are sent away, each in a slot of its own.
    ``close_timeout``: for the closing handshake of a connection that was ready, and
    ``close_timeout_before_ready`` of one that was not.
    """

    drain_period: float = attrs.field(default=10.0, validator=_bounded(0.0, 3600.0))
    close_timeout: float = attrs.field(default=5.0, validator=_bounded(0.1, 300.0))
    close_timeout_before_ready: float = attrs.field(default=1.0, validator=_bounded(0.1, 60.0))


@attrs.frozen(kw_only=True)
class Config:
    """Everything. ``host``, ``port`` and the like stand for one listener; ``listen``, when given,
    lists them all instead.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8765, validator=_bounded(0, 65535))
    unix_path: Path | None = attrs.field(default=None, converter=_to_path)
    certificate: Path | None = attrs.field(default=None, converter=_to_path)
    key: Path | None = attrs.field(default=None, converter=_to_path)
    listen: tuple[ListenConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    limits: LimitsConfig = LimitsConfig()
    handlers: HandlerConfig = HandlerConfig()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: ShutdownConfig = ShutdownConfig()

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
