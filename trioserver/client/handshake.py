"""A WebSocket of trio-websocket over a stream that is watched.

trio-websocket answers pings without a word to its user, does not notice when the peer leaves in
the middle of the opening handshake, and raises into its nursery. So the stream tells when it was
last heard from, what HTTP answered, and that it is over; and what is raised stops here.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio
import trio_websocket

from protocol import SUBPROTOCOL
from trioserver.client.close_reason import CloseReason, lost, of_close, of_http, protocol_error
from trioserver.client.send_tolerant import LastWordsStream
from trioserver.client.url import Address, reason_of_error

Headers = Sequence[tuple[str, str]]

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The default limit for one message from the server. trio-websocket counts characters."""

_RECEIVE_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 16 * 1024
_SWITCHING_PROTOCOLS: Final = 101
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})")
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*(\d{1,6})[ \t]*\r\n", re.IGNORECASE)

_log: Final = structlog.get_logger("trioserver.client")


class WatchedStream(trio.abc.Stream):
    """``last_received``: when bytes last came, by Trio's clock; ``lost``: none will come.

    ``on_end`` is called when it is over, or when HTTP has refused: no body is waited for.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.last_received = trio.current_time()
        self.lost = False
        self.on_end: Callable[[], object] = lambda: None
        self._stream = LastWordsStream(stream)
        self._head = b""
        self._failure: trio.BrokenResourceError | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As of `trio.abc.ReceiveStream`."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self._failure = error
            self._ended()
            raise
        self.last_received = trio.current_time()
        if b"\r\n\r\n" not in self._head and len(self._head) < _HEAD_BYTES:
            self._head += data
            if b"\r\n\r\n" in self._head and self.status != _SWITCHING_PROTOCOLS:
                self.on_end()
        if not data:
            self._ended()
        return data

    def _ended(self) -> None:
        self.lost = True
        self.on_end()

    @property
    def status(self) -> int | None:
        """What HTTP answered; None where nothing, or not HTTP."""
        match = _STATUS.match(self._head)
        return None if match is None else int(match[1])

    def refusal(self) -> CloseReason:
        """Why there was no WebSocket to be had."""
        if self.status is None and not self._head:
            if self._failure is not None and isinstance(self._failure.__cause__, ssl.SSLError):
                return reason_of_error(self._failure)
            return lost("The server left during the opening handshake.")
        if self.status in (None, _SWITCHING_PROTOCOLS):
            return protocol_error("This is not a WebSocket server.")
        after = _RETRY_AFTER.search(self._head)
        return of_http(self.status or 0, None if after is None else float(after[1]))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of `trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As of `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As of `trio.abc.AsyncResource`."""
        self.on_end()
        await self._stream.aclose()


async def run_websocket(
    stream: WatchedStream,
    address: Address,
    headers: Headers,
    max_message_bytes: int,
    *,
    task_status: trio.TaskStatus[trio_websocket.WebSocketConnection | None],
) -> None:
    """Read from a WebSocket until it has ended; for ``nursery.start``, which gives it.

    It gives None where the handshake failed; `WatchedStream.refusal` says why. Raises nothing but
    `trio.Cancelled`, and closes nothing. Has no deadline of its own.
    """
    opened = False
    try:
        async with trio.open_nursery() as reading:
            with trio.CancelScope() as opening:
                stream.on_end = opening.cancel
                websocket = await trio_websocket.wrap_client_stream(
                    reading,
                    stream,  # type: ignore[arg-type] # any stream does, the documentation says
                    address.authority,
                    address.target,
                    subprotocols=[SUBPROTOCOL],
                    extra_headers=[(name.encode(), value.encode()) for name, value in headers],
                    max_message_size=max_message_bytes,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
                opened = True
                task_status.started(websocket)
            if not opened:
                reading.cancel_scope.cancel()
    except* Exception as errors:
        _log.debug("websocket_ended", how=[type(error).__name__ for error in errors.exceptions])
    if not opened:
        task_status.started(None)


def reason_of_close(
    stream: WatchedStream, websocket: trio_websocket.WebSocketConnection
) -> CloseReason:
    """How a WebSocket ended that has ended."""
    closed = websocket.closed
    if closed is not None:
        return of_close(closed.code, closed.reason)
    if stream.lost:
        return lost("The connection ended without a word.")
    return protocol_error("A frame broke RFC 6455.")
