"""The bounds of a send queue, and what they mean for the sizes of frames."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import attrs

from trioserver.websocket.headers import payload_within

LOW_WATER_BYTES: Final = 64 * 1024
"""Frames that can wait do so until at most this is queued. A lower mark leaves a fast transport
idle in between, a higher one lets one client hold more memory."""


def largest_frame(max_bytes: int) -> int:
    """Return the size of the largest frame that a send queue of ``max_bytes`` accepts.

    The rest is the reserve for frames that cannot wait. It is as large as what may be queued when a
    frame is put that could wait, so such a frame always fits.
    """
    return max_bytes - _low_water(max_bytes)


def largest_payload(max_bytes: int) -> int:
    """Return the size of the largest message whose frame a send queue of ``max_bytes`` accepts."""
    return payload_within(largest_frame(max_bytes))


def _low_water(max_bytes: int) -> int:
    return min(LOW_WATER_BYTES, max_bytes // 4)


@attrs.frozen
class SendLimits:
    """Bounds of a send queue, one object for all queues that have the same."""

    max_bytes: int
    max_age: float
    max_frame_bytes: int
    low_water_bytes: int

    @staticmethod
    @lru_cache(maxsize=16)
    def of(max_bytes: int, max_age: float) -> SendLimits:
        return SendLimits(max_bytes, max_age, largest_frame(max_bytes), _low_water(max_bytes))
