"""The limit of the memory that connections hold, and warnings about it."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from trioserver.config import Config
from trioserver.logs.throttle import LogThrottle
from trioserver.websocket.memory import MemoryLimiter
from trioserver.websocket.send_limits import largest_payload

_LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines."""

_ENVELOPE_BYTES: Final = 512
"""Maximum bytes that `ack`, `pong` or `event` add to the message that they contain."""

log: Final = structlog.get_logger("trioserver")


def new_memory(config: Config) -> MemoryLimiter:
    """Make the limiter. It logs when connections have to wait, or are closed."""
    throttle = LogThrottle(_LOG_INTERVAL)

    def warn() -> None:
        suppressed = throttle.allow(trio.current_time())
        if suppressed is not None:
            log.warning(
                "memory_pressure",
                held_bytes=memory.held,
                limit_bytes=memory.limit,
                waiting=memory.waiting,
                closed=memory.evicted,
                suppressed=suppressed,
            )

    memory = MemoryLimiter(config.limits.max_memory_bytes, on_pressure=warn)
    return memory


def check_send_queue(config: Config) -> None:
    """Warn if clients may send messages that the server could not send back, or to others."""
    largest, taken = largest_payload(config.send_queue.max_bytes), config.limits.max_message_bytes
    if largest < taken + _ENVELOPE_BYTES:
        log.warning(
            "send_queue_smaller_than_messages",
            hint="send_queue.max_bytes is too small to echo or publish a message of "
            "limits.max_message_bytes: such a message is rejected with too_big_to_send",
            largest_sent_bytes=largest,
            largest_taken_bytes=taken,
        )
