"""What surrounds the connections: the end, logs, spans, HTTP, audit, administration."""

from __future__ import annotations

from typing import Final

import attrs

from trioserver.config.fields import (
    DAY,
    MIB,
    choice,
    count,
    flag,
    in_bytes,
    maybe_flag,
    seconds,
    text,
    to_text,
)
from trioserver.config.listeners import ListenConfig


@attrs.frozen(kw_only=True)
class ShutdownConfig:
    """How the server and its connections end."""

    drain_period: float = seconds(
        10.0, 0.0, 3600.0, "Clients are sent away over this time, each in a slot of its own."
    )
    close_timeout: float = seconds(
        5.0, 0.1, 300.0, "For the closing handshake of a connection that was ready."
    )
    close_timeout_before_ready: float = seconds(
        1.0, 0.1, 60.0, "For the closing handshake of a connection that was not ready."
    )


LOG_FORMATS: Final = ("auto", "text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@attrs.frozen(kw_only=True)
class LogConfig:
    """What a program that serves writes to stderr, and how many lines others may cause. A program
    that embeds the server formats and filters as it likes; the bounds count there too.
    """

    format: str = choice(
        "auto", LOG_FORMATS, "`auto` is coloured text on a terminal, and JSON lines elsewhere."
    )
    level: str = choice(
        "info",
        LOG_LEVELS,
        "For the server and the application; other libraries are heard from warning on.",
    )
    lines_per_source: int = count(
        5,
        1,
        100_000,
        "lines/s",
        "Lines that one address may cause, or one user who is authenticated; 20 times as many at "
        "once. Beyond, they are counted, and `lines_suppressed` says how many.",
    )
    lines_per_second: int = count(
        50,
        1,
        1_000_000,
        "lines/s",
        "Lines that all who are not authenticated may cause together; 20 times as many at once.",
    )
    exception_messages: str = choice(
        "off",
        ("off", "on"),
        "`on` writes the text of exceptions into tracebacks. It may hold what clients sent, tokens "
        "included: for development only.",
    )


@attrs.frozen(kw_only=True)
class TracingConfig:
    """Spans for a tracing system, by OpenTelemetry, which is the extra ``otel``."""

    spans: str = choice(
        "off",
        ("off", "on"),
        "Whether handshakes, authentications, ownership checks and handlers make spans, with the "
        "tracer provider of the process.",
    )


@attrs.frozen(kw_only=True)
class HttpConfig:
    """HTTP on the port of the WebSockets; it needs the extra ``http``. ``builtin_listen``, when
    given, is a listener of its own for the built-in routes, which are not served elsewhere then.
    """

    health: bool = flag(True, "Serve `/healthz` and `/readyz`.")
    metrics: bool | None = maybe_flag(
        "Serve `/metrics`, where the server has metrics. None: to this machine only, unless there "
        "is a builtin_listen."
    )
    admin: bool | None = maybe_flag(
        "Serve `/api/v1/admin`. None: to this machine only, unless there is a builtin_listen."
    )
    protocol: bool = flag(True, "Serve `/protocol`, a page to read, and `/asyncapi.json`.")
    max_connections: int = count(
        1_000,
        1,
        1_000_000,
        "connections",
        "Open HTTP connections; at this number an idle one gives way, else the oldest.",
    )
    max_body_bytes: int = in_bytes(16 * MIB, 0, 1024 * MIB, "The body of one request.")
    body_timeout: float = seconds(
        10.0, 0.1, 3600.0, "For the next piece of a request's body to arrive."
    )
    response_timeout: float = seconds(
        60.0,
        0.1,
        DAY,
        "For an application to take a piece of the body, and to begin its answer; also for what it "
        "does after the connection has ended.",
    )
    send_timeout: float = seconds(
        10.0, 0.1, 3600.0, "For the client to take 64 KiB of an answer, or what is left of it."
    )
    keep_alive_timeout: float = seconds(
        75.0,
        0.1,
        3600.0,
        "From one answer to the first byte of the next request; to be longer than that of a load "
        "balancer in front, most of which have 60 s.",
    )
    check_timeout: float = seconds(2.0, 0.01, 60.0, "For all checks of `/readyz`, side by side.")
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
        converter=to_text,
        repr=False,
        metadata={
            "help": "A path or sqlite:///... for SQLite, or postgresql://... None: nothing is "
            "recorded, and blocks last as long as the process."
        },
    )
    max_queued_rows: int = count(
        10_000,
        1,
        1_000_000,
        "rows",
        "Rows that are kept while the database is away; those beyond it are counted as lost. "
        "A quarter is for administrative acts, and half is not for attempts that fail.",
    )
    max_batch_rows: int = count(500, 1, 10_000, "rows", "Rows that are written in one transaction.")
    flush_interval: float = seconds(
        1.0, 0.01, 60.0, "How long a row may wait for others, to be written along with them."
    )
    flush_timeout: float = seconds(
        5.0, 0.0, 300.0, "For writing what is left in the queue as the server ends."
    )
    rows_per_source: int = count(
        1,
        1,
        100_000,
        "rows/s",
        "Rows that one address may cause by attempts that fail, or one user by attempts that "
        "succeed; 60 times as many at once. Beyond, they are counted in a row `suppressed`.",
    )
    rows_per_second: int = count(
        10,
        1,
        100_000,
        "rows/s",
        "Rows that all attempts that fail may cause together; 60 times as many at once.",
    )
    retention: float = seconds(
        90 * DAY, 60.0, 3650 * DAY, "The age at which rows are deleted; 7776000 s are 90 days."
    )
    block_refresh_interval: float = seconds(
        5.0, 0.1, 3600.0, "How often blocks that another server has made or lifted are looked for."
    )


@attrs.frozen(kw_only=True)
class AdminConfig:
    """Who may use the administration, and how much it takes."""

    role_claim: str = text(
        "role",
        "The claim that holds an administrator's role: text, or a list of texts. A path with dots "
        "names a nested claim: realm_access.roles.",
    )
    role: str = text("admin", "The role that lets in.")
    max_body_bytes: int = in_bytes(64 * 1024, 1024, 16 * MIB, "The body of one request.")
    body_timeout: float = seconds(10.0, 0.1, 300.0, "For the body of a request to arrive.")
