"""Where the body of a request ends, so that what is behind it is never taken for a part of it."""

from __future__ import annotations

from typing import Final

import h11

from trioserver.websocket.handshake import Head

_CHUNK_BYTES: Final = 1024
"""A chunk for each so many bytes costs no more than the bytes do."""

_FEW_CHUNKS: Final = 1000
_LEAST_CHUNK: Final = 16
"""Chunks that a body may come in: some, and one more for so many bytes. Each costs as much as
thousands of bytes do; programs that write a body in small pieces have tens of bytes in each."""


class Body:
    """Finds the end of one request's body in the bytes as they come. ``size`` is what it holds.

    A parser of our own follows along, because Hypercorn would go on to the next request by
    itself, past every rule for heads. ``small_chunks`` is how many chunks there have been beyond
    one for each KiB.
    """

    def __init__(self, head: Head, *, max_incomplete: int) -> None:
        self.size = 0
        self.is_complete = False
        self.is_broken = False
        self._is_chunked = "transfer-encoding" in head.headers
        self._chunks = 0
        self._pieces: list[bytes] = []
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_incomplete)
        self._parser.receive_data(head.raw)
        self._parser.next_event()
        self._advance()

    @property
    def small_chunks(self) -> int:
        """As the class says."""
        return max(0, self._chunks - 1 - self.size // _CHUNK_BYTES)

    @property
    def has_too_many_chunks(self) -> bool:
        """Whether there are more than a body of this size may have."""
        return self._chunks > _FEW_CHUNKS + self.size // _LEAST_CHUNK

    def take(self, data: bytes) -> int:
        """How many of the next bytes are the body's. Of a broken one, all."""
        self._parser.receive_data(data)
        self._advance()
        return len(data) - len(self._parser.trailing_data[0]) if self.is_complete else len(data)

    def pass_on(self) -> bytes:
        """What has come since this was last asked, to be parsed again: in one chunk, if in any.

        Thousands of chunks of one byte would each be an event for everybody behind this.
        """
        data = b"".join(self._pieces)
        self._pieces.clear()
        if not self._is_chunked:
            return data
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return chunk + b"0\r\n\r\n" if self.is_complete else chunk

    def _advance(self) -> None:
        try:
            while isinstance(event := self._parser.next_event(), h11.Data):
                self.size += len(event.data)
                self._chunks += event.chunk_start
                self._pieces.append(bytes(event.data))
        except h11.RemoteProtocolError:
            self.is_broken = True
        else:
            self.is_complete = isinstance(event, h11.EndOfMessage)
