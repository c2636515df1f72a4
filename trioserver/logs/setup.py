"""Configures logging for programs: to stderr, as coloured text or as JSON lines, without secrets.

structlog's default tracebacks, made by Rich, print the local variables of each frame: tokens,
passwords, messages. Here `trioserver.logs.tracebacks` formats all tracebacks, including those that
the application and other libraries log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from trioserver.logs.printable import printable
from trioserver.logs.tracebacks import show_exception_messages, traceback_of

_PAYLOADS: Final = ("trio-websocket", "wsproto")
"""Loggers that log what clients send at level DEBUG. They are always kept at WARNING."""


def set_up_logging(
    *,
    format: str = "auto",
    level: str = "info",
    exception_messages: str = "off",
    stream: TextIO | None = None,
) -> None:
    """Configure structlog and the standard `logging` of this process, as `trioserver serve` does.

    - ``format``: "text", "json", or "auto" for coloured text on a terminal and JSON elsewhere.
    - ``level``: "debug", "info", "warning" or "error", for trioserver and the application. Other
      libraries log from WARNING on.
    - ``exception_messages``: "on" shows the text of exceptions in tracebacks. For development only,
      because the text may contain what clients sent, tokens included.
    - ``stream``: where to write to. None is stderr.
    """
    show_exception_messages(exception_messages == "on")
    stream = stream or sys.stderr
    lines = _Lines(stream)
    terminal = stream.isatty()
    text = format == "text" or (format == "auto" and terminal)
    render = _text(colours=terminal) if text else _json()
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Removes exc_info, so that the renderer does not format it itself.
        structlog.processors.ExceptionRenderer(_format_exc_info),
        _name_traceback,
        lines.add_lost,
    ]
    structlog.configure(
        processors=[*common, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", lines)),
        cache_logger_on_first_use=False,  # a log line for a connection, not for a message
    )
    _route_libraries(common, render, lines)


class _Lines:
    """A stream that raises nothing, so that a full disk or a closed pipe ends no connection.

    The next line that can be written has the number of lost lines, as ``lines_lost_before``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """Do nothing: each line is flushed as it is written."""

    def add_lost(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Add the number of lost lines to a line; a processor of structlog."""
        if self._lost:
            event["lines_lost_before"] = self._lost
        return event


def _text(*, colours: bool) -> Sequence[Processor]:
    # repr: what a client chose, such as a path, must not control the terminal.
    return (_printable, structlog.dev.ConsoleRenderer(colors=colours, repr_native_str=True))


def _json() -> Sequence[Processor]:
    return (structlog.processors.JSONRenderer(),)


def _format_exc_info(exc_info: Any) -> str:
    return traceback_of(exc_info[1])


def _name_traceback(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Rename ``traceback``, which the server has formatted itself, to ``exception``."""
    if "traceback" in event:
        event["exception"] = event.pop("traceback")
    return event


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["event"] = printable(str(event["event"]))
    if "exception" in event:
        event["exception"] = printable(str(event["exception"]), keep="\n\t")
    return event


def _route_libraries(
    common: Sequence[Processor], render: Sequence[Processor], stream: _Lines
) -> None:
    remove: Any = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[remove, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _PAYLOADS:
        logging.getLogger(name).setLevel(logging.WARNING)
