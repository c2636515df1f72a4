"""Find the end of a request's body, so that the bytes after it are not taken for a part of it."""

from __future__ import annotations

from typing import Final

import h11

_CHUNK_BYTES: Final = 1024
"""One chunk for this many bytes costs no more CPU time than the bytes themselves."""

_FREE_CHUNKS: Final = 1000
_MIN_CHUNK_BYTES: Final = 16
"""A body may have `_FREE_CHUNKS` chunks, and one more for each `_MIN_CHUNK_BYTES` of its size. A
chunk costs as much CPU time as thousands of bytes. Programs that write a body in small pieces have
tens of bytes in each."""


class RequestBody:
    """The body of the request whose head ``parser`` has just parsed. Does no I/O.

    ``size`` is the number of bytes received so far, without the framing of chunks.
    """

    def __init__(self, parser: h11.Connection) -> None:
        self.size = 0
        self.is_complete = False
        self.is_malformed = False
        self._parser = parser
        self._chunks = 0
        self._pieces: list[bytes] = []
        self._parse()

    @property
    def small_chunks(self) -> int:
        """The number of chunks beyond one for each KiB."""
        return max(0, self._chunks - 1 - self.size // _CHUNK_BYTES)

    @property
    def has_too_many_chunks(self) -> bool:
        """Whether there are more chunks than a body of this size may have."""
        return self._chunks > _FREE_CHUNKS + self.size // _MIN_CHUNK_BYTES

    def receive_data(self, data: bytes) -> int:
        """Parse the next bytes; return how many belong to the body. All, if it is malformed."""
        self._parser.receive_data(data)
        self._parse()
        return len(data) - len(self._parser.trailing_data[0]) if self.is_complete else len(data)

    def read(self) -> bytes:
        """Return what was received since the last call, in one piece.

        An application would otherwise get an event for each of thousands of chunks of one byte.
        """
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _parse(self) -> None:
        try:
            while isinstance(event := self._parser.next_event(), h11.Data):
                self.size += len(event.data)
                self._chunks += event.chunk_start
                self._pieces.append(bytes(event.data))
        except h11.RemoteProtocolError:
            self.is_malformed = True
        else:
            self.is_complete = isinstance(event, h11.EndOfMessage)
