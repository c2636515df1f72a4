"""Options around the connections: shutdown, logs, tracing, HTTP, audit, administration."""

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
    """How the server shuts down, and how a connection is closed."""

    drain_period: float = seconds(
        10.0,
        0.0,
        3600.0,
        "Time over which a shutdown spreads the closing of all connections, so that clients do not "
        "reconnect at the same moment. 0 closes all at once. Raise it with the number of clients.",
    )
    close_timeout: float = seconds(
        5.0,
        0.1,
        300.0,
        "Time for the closing handshake of a connection that was ready. Then the connection is "
        "aborted.",
    )
    close_timeout_before_ready: float = seconds(
        1.0,
        0.1,
        60.0,
        "Time for the closing handshake of a connection that was not ready yet. Then the "
        "connection is aborted.",
    )


LOG_FORMATS: Final = ("auto", "text", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@attrs.frozen(kw_only=True)
class LogConfig:
    """What the commands log to stderr, and how many lines clients can cause. In a program that
    embeds the server, format, level and exception_messages have no effect; the limits do.
    """

    format: str = choice(
        "auto",
        LOG_FORMATS,
        "Format of log lines: `text`, `json`, or `auto` for coloured text on a terminal and JSON "
        "otherwise.",
    )
    level: str = choice(
        "info",
        LOG_LEVELS,
        "Lowest level that the server and the application log. Other libraries log from warning "
        "on.",
    )
    lines_per_source: int = count(
        5,
        1,
        100_000,
        "lines/s",
        "Maximum log lines per second caused by one address or one authenticated user, with bursts "
        "of up to 20 times as many. Further lines are suppressed and counted in "
        "`log_lines_suppressed`.",
    )
    lines_per_second: int = count(
        50,
        1,
        1_000_000,
        "lines/s",
        "Maximum log lines per second caused by all unauthenticated clients together, with bursts "
        "of up to 20 times as many. Further lines are suppressed and counted in "
        "`log_lines_suppressed`.",
    )
    exception_messages: str = choice(
        "off",
        ("off", "on"),
        "Whether tracebacks contain the text of exceptions. `on` is for development only, because "
        "the text may contain what clients sent, tokens included.",
    )


@attrs.frozen(kw_only=True)
class TracingConfig:
    """Spans for a tracing system, through OpenTelemetry (the extra ``otel``)."""

    spans: str = choice(
        "off",
        ("off", "on"),
        "Whether handshakes, authentications, authorizations and handlers create spans, with the "
        "tracer provider of the process.",
    )


@attrs.frozen(kw_only=True)
class HttpConfig:
    """HTTP on the same port as the WebSockets (the extra ``http``). With ``builtin_listen``, the
    built-in routes are served by a listener of their own, and not on the other ports.
    """

    health: bool = flag(True, "Serve the probes `/healthz` and `/readyz`.")
    metrics: bool | None = maybe_flag(
        "Serve `/metrics` for Prometheus, if the server has metrics. If not set, it is served to "
        "loopback addresses only, or to everyone who reaches builtin_listen."
    )
    admin: bool | None = maybe_flag(
        "Serve the administration API at `/api/v1/admin`. If not set, it is served to loopback "
        "addresses only, or to everyone who reaches builtin_listen; a token with the role is "
        "needed in any case."
    )
    protocol: bool = flag(
        True, "Serve a description of the protocol: the page `/protocol` and `/asyncapi.json`."
    )
    max_connections: int = count(
        1_000,
        1,
        1_000_000,
        "connections",
        "Maximum open HTTP connections. When it is exceeded, an idle one is closed; if none is "
        "idle, the oldest.",
    )
    max_body_bytes: int = in_bytes(
        16 * MIB,
        0,
        1024 * MIB,
        "Maximum size of a request body. A larger one gets HTTP 413. 0 allows no body.",
    )
    body_timeout: float = seconds(
        10.0,
        0.1,
        3600.0,
        "Time to wait for the next piece of a request body. If it takes longer, the request gets "
        "HTTP 408.",
    )
    response_timeout: float = seconds(
        60.0,
        0.1,
        DAY,
        "Time for the application to read the next piece of a request body and to begin its "
        "response; then it is cancelled and the request gets HTTP 503. Also the time that it may "
        "run on after the connection has ended.",
    )
    send_timeout: float = seconds(
        10.0,
        0.1,
        3600.0,
        "Time for the client to receive 64 KiB of a response, or the rest of it. If it takes "
        "longer, the connection is closed.",
    )
    keep_alive_timeout: float = seconds(
        75.0,
        0.1,
        3600.0,
        "Time that a connection may be idle between a response and the next request. Keep it "
        "longer than the idle timeout of a load balancer in front (often 60 s), otherwise the "
        "balancer answers 502 now and then.",
    )
    check_timeout: float = seconds(
        2.0,
        0.01,
        60.0,
        "Time for all checks of `/readyz`, which run concurrently. A check that takes longer has "
        "failed.",
    )
    builtin_listen: ListenConfig | None = None

    @property
    def listeners(self) -> tuple[ListenConfig, ...]:
        """Listeners in addition to those of the WebSockets."""
        return () if self.builtin_listen is None else (self.builtin_listen,)


@attrs.frozen(kw_only=True)
class AuditConfig:
    """The audit: a database record of authentications, administrative actions, and blocks."""

    database: str | None = attrs.field(
        default=None,
        converter=to_text,
        repr=False,
        metadata={
            "help": "Database of the audit: a file path or sqlite:///... for SQLite, or "
            "postgresql://... If not set, nothing is recorded, and blocks are lost when the "
            "process exits."
        },
    )
    max_queued_rows: int = count(
        10_000,
        1,
        1_000_000,
        "rows",
        "Maximum rows that wait in memory while the database does not answer. Further rows are "
        "lost and counted. Failed attempts may fill half of it, and all attempts three quarters; "
        "the rest is reserved for administrative actions.",
    )
    max_batch_rows: int = count(500, 1, 10_000, "rows", "Maximum rows written in one transaction.")
    flush_interval: float = seconds(
        1.0,
        0.01,
        60.0,
        "Time that a row may wait for others to be written with it. Lower it to see rows sooner, "
        "at the cost of more transactions.",
    )
    flush_timeout: float = seconds(
        5.0,
        0.0,
        300.0,
        "Time to write the queued rows when the server ends. Rows that are left then are lost; "
        "with 0, all of them.",
    )
    rows_per_source: int = count(
        1,
        1,
        100_000,
        "rows/s",
        "Maximum rows per second for failed attempts of one address, or successful attempts of one "
        "user, with bursts of up to 60 times as many. Further attempts are counted in a "
        "`suppressed` row.",
    )
    rows_per_second: int = count(
        10,
        1,
        100_000,
        "rows/s",
        "Maximum rows per second for failed attempts of all addresses together, with bursts of up "
        "to 60 times as many. Further attempts are counted in a `suppressed` row.",
    )
    retention: float = seconds(
        90 * DAY,
        60.0,
        3650 * DAY,
        "Age at which rows are deleted. The default is 90 days.",
    )
    block_refresh_interval: float = seconds(
        5.0,
        0.1,
        3600.0,
        "Time between two queries for blocks that another server has made or lifted. Lower it to "
        "have blocks take effect on all servers sooner.",
    )


@attrs.frozen(kw_only=True)
class AdminConfig:
    """Who may use the administration API, and limits on its requests."""

    role_claim: str = text(
        "role",
        "Token claim that contains the administrator's role, as text or a list of texts. Dots name "
        "a nested claim, such as realm_access.roles.",
    )
    role: str = text("admin", "Value of the role_claim that allows access.")
    max_body_bytes: int = in_bytes(
        64 * 1024, 1024, 16 * MIB, "Maximum size of a request body. A larger one gets HTTP 413."
    )
    body_timeout: float = seconds(
        10.0,
        0.1,
        300.0,
        "Time for the whole request body to arrive. If it takes longer, the request gets HTTP 408.",
    )
