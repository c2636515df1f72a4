"""The memory of a server's connections, and the line in the log when it is short."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from trioserver.config import Config
from trioserver.logs.throttle import LogThrottle
from trioserver.websocket.memory import MemoryLimiter
from trioserver.websocket.send_queue import largest_payload

_PERIOD: Final = 10.0
"""Seconds between two lines about the same."""

_ECHO: Final = 512
"""Bytes by which an answer that contains a message is longer than the message, at the most: `ack`,
`pong`, or `event`, without the topic."""

log: Final = structlog.get_logger("trioserver")


def new_memory(config: Config) -> MemoryLimiter:
    """Bounded as the configuration says. It logs that connections wait, or are closed."""
    throttle = LogThrottle(_PERIOD)

    def tell() -> None:
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

    memory = MemoryLimiter(config.limits.max_memory_bytes, on_pressure=tell)
    return memory


def check_send_queue(config: Config) -> None:
    """Say so where a client may send what the server could not send back, or to others."""
    largest, taken = largest_payload(config.send_queue.max_bytes), config.limits.max_message_bytes
    if largest < taken + _ECHO:
        log.warning(
            "send_queue_smaller_than_messages",
            hint="send_queue.max_bytes is too small to echo or publish a message of "
            "limits.max_message_bytes: such a message is rejected with too_big_to_send",
            largest_sent_bytes=largest,
            largest_taken_bytes=taken,
        )
