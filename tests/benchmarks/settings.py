"""What the program that measures tells each server, and the load generator."""

from __future__ import annotations

import os
from typing import Final, Literal, TypeAlias

import msgspec

VARIABLE: Final = "TRIOSERVER_BENCHMARK"
"""The environment variable that has the settings of a peer, as JSON."""

HOST: Final = "127.0.0.1"

TOPIC: Final = "news"

BACKLOG: Final = 4096
"""Connections that wait to be accepted. The defaults of most peers are lower, and a storm of 2,000
would then measure the kernel's retransmissions."""

Language: TypeAlias = Literal["trioserver", "echo"]
"""``trioserver``: the protocol of docs/protocol.md. ``echo``: what is sent comes back, no more."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """For a server. ``certificate`` and ``key`` are files; None is no TLS."""

    secret: str
    database: str
    certificate: str | None = None
    key: str | None = None
    async_handler: bool = False  # trioserver has two kinds of handler for the same thing
    rooms: int = 0  # in the database
    inline_lookups: bool = False  # the owner's look-up in the event loop, not in a thread

    @classmethod
    def load(cls) -> Settings:
        """Raises `KeyError` where nobody has set any."""
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """For the load generator: one measurement, of one server. Durations are in seconds."""

    load: Literal["closed", "open", "flood", "fan_out", "storm", "idle"]
    port: int
    server: int  # its process id
    secret: str
    speaks: Language = "trioserver"
    authority: str | None = None  # the file of a certificate authority: TLS
    connections: int
    in_flight: int = 1
    message_bytes: int = 90
    rate: float = 0.0  # messages a second in all; open loops only
    warmup: float = 0.5
    duration: float = 2.0
