"""`Plan`: what a load test does, as one value that is sent to each worker process as JSON."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from trioserver.client.url import WebSocketURL

CLIENT: Final = "{client}"
"""Placeholder for the client's number, from 0, in the URL, subject, data and token command."""

SEQUENCE: Final = "{seq}"
"""Placeholder in the data for the number of the client's request, from 0."""

Loop: TypeAlias = Literal["none", "open", "closed"]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Where tokens come from: at most one of the first four. ``lifetime`` is in seconds."""

    fixed: str | None = None
    lines: tuple[str, ...] = ()  # the client's number modulo their count selects one
    secret: str | None = None
    command: tuple[str, ...] = ()
    subject: str = "user-{client}"
    lifetime: float = 1800.0

    def __repr__(self) -> str:
        return f"Tokens(subject={self.subject!r}, lifetime={self.lifetime})"  # never a token


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A load test. Durations are in seconds; rates are per second, for all processes together.

    Clients are numbered from 0. With a ``topic``, the first ``publishers`` of them publish and the
    others subscribe. Without one, all send requests. The ``slow_readers`` are additional clients
    with the numbers after these.
    """

    url: str
    family: int  # with ``sockaddr``: the address that `choose_target` has checked
    sockaddr: tuple[Any, ...]
    cafile: str | None = None
    insecure_tls: bool = False
    tokens: Tokens = Tokens()
    clients: int = 100
    connect_rate: float | None = None  # None: all at once
    ready_timeout: float = 30.0
    retry: bool = True
    loop: Loop = "none"
    rate: float = 0.0
    in_flight: int = 1
    type: str = "ping"
    data: str | None = None  # JSON with placeholders
    topic: str | None = None
    publishers: int = 1
    duration: float = 10.0
    warmup: float = 0.0
    storms: int = 0
    slow_readers: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        """Raises `ValueError` for values that contradict each other."""
        parts = urlsplit(self.url)
        if CLIENT in parts.netloc:
            raise ValueError(
                f"{CLIENT} is allowed in the path and query of the URL, not in its host"
            )
        self.url_of(0)
        if self.processes > self.clients:
            raise ValueError(
                f"{self.processes} processes for {self.clients} clients: each process needs a "
                "client"
            )
        if self.topic is not None and self.publishers >= self.clients:
            raise ValueError(
                f"publishers: {self.publishers}, clients: {self.clients}; no client is left to "
                "subscribe: use more clients"
            )
        if self.data is not None:
            try:
                json.loads(self.data_of(0, 0) or "")
            except (ValueError, RecursionError):
                raise ValueError(
                    "the data is not valid JSON after the placeholders are replaced by numbers"
                ) from None

    def url_of(self, number: int) -> WebSocketURL:
        """The URL of client ``number``. Raises `ValueError`."""
        return WebSocketURL.parse(self.url.replace(CLIENT, str(number)))

    def data_of(self, number: int, sequence: int) -> str | None:
        """The data of a client's request as JSON."""
        if self.data is None:
            return None
        return self.data.replace(CLIENT, str(number)).replace(SEQUENCE, str(sequence))

    @property
    def same_data(self) -> bool:
        """Whether all requests have the same data, so that frames can be made in advance."""
        return self.data is None or (CLIENT not in self.data and SEQUENCE not in self.data)

    @property
    def senders(self) -> int:
        """Number of clients that send requests or publish."""
        return self.clients if self.topic is None else self.publishers

    def share(self, index: int) -> Share:
        """The share of process ``index`` of ``processes``."""
        clients = _part(self.clients, index, self.processes)
        slow = _part(self.slow_readers, index, self.processes)
        senders = range(clients.start, min(clients.stop, self.senders))
        total = self.rate * len(senders) / self.senders if len(senders) else 0.0
        rate = None
        if self.connect_rate is not None:
            rate = self.connect_rate * len(clients) / self.clients
        return Share(
            first=clients.start,
            clients=len(clients),
            senders=len(senders),
            rate=total,
            connect_rate=rate,
            first_slow=self.clients + slow.start,
            slow_readers=len(slow),
            phase=index / self.processes,
        )


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The share of one process. ``phase``: the part of an interval by which its schedule is later
    than that of the first process."""

    first: int
    clients: int
    senders: int
    rate: float
    connect_rate: float | None
    first_slow: int
    slow_readers: int
    phase: float

    @property
    def files(self) -> int:
        """Open files that it needs, including some that are not sockets of clients."""
        return self.clients + self.slow_readers + 64


def _part(count: int, index: int, parts: int) -> range:
    return range(count * index // parts, count * (index + 1) // parts)
