"""Spans for OpenTelemetry: the opening of a connection, and each call of a handler.

If tracing is off, nothing here is called. A span contains what happened, for which connection and
user, and how it ended. It contains no payload, no token, and no text of an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from protocol import Refusal
from protocol.traceparent import traceparent_of
from trioserver.config.extras import needs

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer

    from protocol.messages import Message
    from trioserver.app.connection import Connection
    from trioserver.app.handlers import Handler

_FAULTS: Final = frozenset({"internal_error", "unavailable"})
"""Error codes that are the server's fault, and make a span an error."""


class Tracing:
    """Makes spans with ``tracer``, or with the tracer provider of the process if it is None.

    Raises `ImportError` if OpenTelemetry is not installed.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        with needs("tracing needs OpenTelemetry: pip install 'trioserver[otel]'", "opentelemetry"):
            from opentelemetry import trace
        self._tracer = tracer or trace.get_tracer("trioserver")

    def of(self, connection_id: str, route: str) -> ConnectionTracing:
        """Begin the spans of one connection with the first of them, ``connect``."""
        return ConnectionTracing(self._tracer, connection_id, route)


class ConnectionTracing:
    """``connect`` lasts until READY, or until that has failed; its steps are below it.

    A handler's span belongs to the trace that its message names, or starts a trace: a trace of
    a connection's whole life would have no end. It has a link to ``connect``. ``user_id`` is set
    when the user is known.
    """

    def __init__(self, tracer: Tracer, connection_id: str, route: str) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        self._tracer = tracer
        self._connection_id = connection_id
        self._route = route
        self.user_id: str | None = None
        self._nothing = Context()
        self._connect: Span | None = tracer.start_span(
            "connect", self._nothing, kind=trace.SpanKind.SERVER, attributes=self._attributes()
        )
        self._below = trace.set_span_in_context(self._connect, self._nothing)
        self._links = [trace.Link(self._connect.get_span_context())]

    def finish_auth_span(self, outcome: str) -> None:
        """End the span ``connect`` with "ready", an error code, or "client_disconnected".

        Only the first call counts.
        """
        span, self._connect = self._connect, None
        if span is not None:
            span.set_attributes({**self._attributes(), "trioserver.outcome": outcome})
            if outcome in _FAULTS:
                _mark_as_error(span, outcome)
            span.end()

    def step(self, name: str) -> AbstractContextManager[Any]:
        """Make a span for a step of the opening, or start a trace for a step of a token refresh."""
        from opentelemetry import trace

        opening = self._connect is not None
        return self._span(
            name,
            self._below if opening else self._nothing,
            trace.SpanKind.INTERNAL,
            links=[] if opening else self._links,
        )

    def handle(self, handler: Handler, message: Message) -> AbstractContextManager[Any]:
        """Make a span for the handling of one message; for a stream, until its end."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent, context = traceparent_of(message), self._nothing
        if parent is not None:
            carrier = {"traceparent": parent}
            context = TraceContextTextMapPropagator().extract(carrier, self._nothing)
        return self._span(
            f"handle {handler.type}",
            context,
            trace.SpanKind.SERVER,
            links=self._links,
            **{"trioserver.message_type": handler.type, "trioserver.kind": handler.kind.value},
        )

    async def call_async(self, handler: Handler, connection: Connection, message: Message) -> Any:
        """Call an `async def` handler, in a span."""
        with self.handle(handler, message):
            return await handler.function(connection, *handler.arguments(message))

    def call_inline(
        self, call: Callable[..., Any], handler: Handler, connection: Connection, message: Message
    ) -> Any:
        """Call ``call`` with the other arguments, in a span."""
        with self.handle(handler, message):
            return call(handler, connection, message)

    @contextmanager
    def _span(
        self, name: str, context: Any, kind: Any, *, links: list[Link], **attributes: str
    ) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name,
            context,
            kind=kind,
            attributes={**self._attributes(), **attributes},
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            outcome = "cancelled"
            try:
                yield
                outcome = "ok"
            except Refusal as refusal:
                outcome = refusal.code
                if outcome in _FAULTS:
                    _mark_as_error(span, outcome)
                raise
            except Exception as error:
                outcome = "failed"
                _mark_as_error(span, type(error).__name__)
                raise
            finally:
                span.set_attribute("trioserver.outcome", outcome)

    def _attributes(self) -> dict[str, str]:
        attributes = {
            "trioserver.connection_id": self._connection_id,
            "trioserver.route": self._route,
        }
        if self.user_id is not None:
            attributes["enduser.id"] = self.user_id
        return attributes


def step(tracing: ConnectionTracing | None, name: str) -> AbstractContextManager[Any]:
    """Make a span with `ConnectionTracing.step` if the connection is traced."""
    return nullcontext() if tracing is None else tracing.step(name)


def _mark_as_error(span: Span, description: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, description))
