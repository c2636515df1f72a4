"""One WebSocket without I/O: bytes in, items out, and the state that it is in.

| what happens                               | OPEN    | CLOSING | CLOSED |
|--------------------------------------------|---------|---------|--------|
| `begin_close`: the server closes           | CLOSING |         |        |
| `fail`: the peer broke a rule              | CLOSING |         |        |
| `receive_close`: the peer's Close came     | CLOSING |         |        |
| `end`: the transport has ended             | CLOSED  | CLOSED  |        |

Messages, pings and pongs are handled in OPEN only. In CLOSING the peer is read for its Close frame.
``close_received`` is set by the first of `receive_close` and `end`. Whether our own Close frame was
sent is the send queue's to know: it accepts no frame after it.
"""

from __future__ import annotations

from enum import Enum

from trioserver.websocket.close_frame import ABNORMAL_CLOSE, CloseFrame, parse_close
from trioserver.websocket.frames import FrameDecoder, Item
from trioserver.websocket.pace import Pace


class State(Enum):
    """The states of RFC 6455 after the opening handshake."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class WebSocketProtocol:
    """The receiving side of a server's WebSocket, and its state.

    ``error`` is the code that `fail` was called with, a row of `protocol.errors`. ``now`` is Trio's
    clock, in seconds. ``decoder`` and ``pace`` are for the drivers, which read by what these say.
    """

    __slots__ = (
        "bytes_received", "close_received", "decoder", "error", "last_received",
        "messages_received", "pace", "state",
    )  # fmt: skip

    def __init__(self, decoder: FrameDecoder, pace: Pace, now: float) -> None:
        self.decoder = decoder
        self.pace = pace
        self.state = State.OPEN
        self.error: str | None = None
        self.close_received: CloseFrame | None = None
        self.bytes_received = 0
        self.messages_received = 0
        self.last_received = now

    def receive_data(self, data: bytes, now: float) -> list[Item]:
        """Decode what one read gave, and charge it to the pace."""
        self.bytes_received += len(data)
        self.last_received = now
        decoder, pace = self.decoder, self.pace
        items = decoder.receive(data)
        pace.left -= 1
        if decoder.frames:
            pace.left -= decoder.frames
            decoder.frames = 0
        return items

    def receive_close(self, payload: bytes) -> bytes:
        """Record the peer's Close frame; return the payload of the Close frame to answer with."""
        received, answer = parse_close(payload)
        if self.close_received is None:
            self.close_received = received
        self.begin_close()
        return answer

    def fail(self, code: str) -> bool:
        """Record that the peer broke a rule; return False if it is too late for that to matter."""
        if self.state is not State.OPEN:
            return False
        self.error = code
        self.begin_close()
        return True

    def begin_close(self) -> None:
        """From now on only the peer's Close frame matters."""
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self.decoder.discard_data()

    def end(self) -> None:
        """Record that nothing can be received any more."""
        self.state = State.CLOSED
        if self.close_received is None:
            self.close_received = ABNORMAL_CLOSE
