"""Makes the requests that clients send, as frames; most frames are made once and sent often."""

from __future__ import annotations

from typing import Final

import msgspec

from trioserver.load.plan import Plan
from trioserver.load.wire import encode_masked

FIRST_ID: Final = 100_000
"""Ids have six digits, so that all requests have the same size."""

MAX_IN_FLIGHT: Final = 4096
"""Ids of a client's requests. An id is used again when its request has been answered."""

_CACHED_BYTES: Final = 32 * 1024 * 1024


class PublishedData(msgspec.Struct):
    """The data of a published event: when it was due, in seconds of this machine's clock."""

    due: float
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Requests:
    """Makes the requests of all clients."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._make = self._publish if plan.topic is not None else self._request
        self._cache: list[bytes | None] = []
        size = len(self._make(0, 0, 0.0))
        if plan.topic is None and plan.same_data and size * MAX_IN_FLIGHT <= _CACHED_BYTES:
            self._cache = [None] * MAX_IN_FLIGHT

    @staticmethod
    def id_of(sequence: int) -> int:
        """The id of a client's request with this number, from 0."""
        return FIRST_ID + sequence % MAX_IN_FLIGHT

    def frame(self, number: int, sequence: int, due: float) -> bytes:
        """A request of client ``number`` as a masked frame."""
        if not self._cache:
            return encode_masked(self._make(number, sequence, due))
        index = sequence % MAX_IN_FLIGHT
        frame = self._cache[index]
        if frame is None:
            frame = self._cache[index] = encode_masked(self._make(number, sequence, due))
        return frame

    def _request(self, number: int, sequence: int, due: float) -> bytes:
        data = self._plan.data_of(number, sequence)
        kind = msgspec.json.encode(self._plan.type).decode()
        rest = "" if data is None else f',"data":{data}'
        return f'{{"type":{kind},"id":{self.id_of(sequence)}{rest}}}'.encode()

    def _publish(self, number: int, sequence: int, due: float) -> bytes:
        data = self._plan.data_of(number, sequence)
        message = {
            "type": "publish",
            "id": self.id_of(sequence),
            "topic": self._plan.topic,
            "data": PublishedData(
                due, msgspec.UNSET if data is None else msgspec.Raw(data.encode())
            ),
        }
        return msgspec.json.encode(message)
