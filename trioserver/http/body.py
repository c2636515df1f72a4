"""Where the body of a request ends, so that what is behind it is never taken for a part of it."""

from __future__ import annotations

import h11

from trioserver.websocket.handshake import Head


class Body:
    """Finds the end of one request's body in the bytes as they come. ``size`` is what it holds.

    A parser of our own follows along, because Hypercorn would go on to the next request by
    itself, past every rule for heads.
    """

    def __init__(self, head: Head, *, max_incomplete: int) -> None:
        self.size = 0
        self.is_complete = False
        self.is_broken = False
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=max_incomplete)
        self._parser.receive_data(head.raw)
        self._parser.next_event()
        self._advance()

    def take(self, data: bytes) -> int:
        """How many of the next bytes are the body's. Of a broken one, all."""
        self._parser.receive_data(data)
        self._advance()
        return len(data) - len(self._parser.trailing_data[0]) if self.is_complete else len(data)

    def _advance(self) -> None:
        try:
            while isinstance(event := self._parser.next_event(), h11.Data):
                self.size += len(event.data)
        except h11.RemoteProtocolError:
            self.is_broken = True
        else:
            self.is_complete = isinstance(event, h11.EndOfMessage)
