"""Opens a WebSocket of trio-websocket over a stream that records what trio-websocket hides.

trio-websocket answers pings without notice, does not detect that the peer closes the connection
during the opening handshake, and raises exceptions into its nursery. Therefore `WatchedStream`
records when bytes were last received, the HTTP response, and the end of the stream, and
`run_websocket` stops the exceptions.
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
from trioserver.client.close_reason import CloseReason
from trioserver.client.network import reason_from_error
from trioserver.client.send_tolerant import SendTolerantStream
from trioserver.client.url import WebSocketURL

Headers = Sequence[tuple[str, str]]

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The default limit for one message from the server. trio-websocket counts characters."""

_RECEIVE_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 16 * 1024
_SWITCHING_PROTOCOLS: Final = 101
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})")
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*(\d{1,6})[ \t]*\r\n", re.IGNORECASE)

_log: Final = structlog.get_logger("trioserver")


class WatchedStream(trio.abc.Stream):
    """A stream that records what it receives.

    ``last_received`` is when bytes were last received, by Trio's clock. ``lost`` is True after the
    end of the stream. ``on_end`` is called at the end of the stream, and when the HTTP response is
    not 101, because its body is not needed.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.last_received = trio.current_time()
        self.lost = False
        self.on_end: Callable[[], object] = lambda: None
        self._stream = SendTolerantStream(stream)
        self._head = b""
        self._failure: trio.BrokenResourceError | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.abc.ReceiveStream`."""
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
        """Status of the HTTP response; None if nothing, or something else, was received."""
        match = _STATUS.match(self._head)
        return None if match is None else int(match[1])

    def handshake_failure(self) -> CloseReason:
        """Why the opening handshake failed."""
        if self.status is None and not self._head:
            if self._failure is not None and isinstance(self._failure.__cause__, ssl.SSLError):
                return reason_from_error(self._failure)
            return CloseReason.local("The server closed during the opening handshake.")
        if self.status in (None, _SWITCHING_PROTOCOLS):
            return CloseReason.protocol_error("This is not a WebSocket server.")
        after = _RETRY_AFTER.search(self._head)
        return CloseReason.from_http(self.status or 0, None if after is None else float(after[1]))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`."""
        self.on_end()
        await self._stream.aclose()


async def run_websocket(
    stream: WatchedStream,
    url: WebSocketURL,
    headers: Headers,
    max_message_bytes: int,
    *,
    task_status: trio.TaskStatus[trio_websocket.WebSocketConnection | None],
) -> None:
    """Open a WebSocket and read from it until it ends; use it with ``nursery.start``.

    That returns the WebSocket, or None if the handshake failed; `WatchedStream.handshake_failure`
    says why. Raises only `trio.Cancelled`, and closes nothing. It has no deadline.
    """
    opened = False
    try:
        async with trio.open_nursery() as reading:
            with trio.CancelScope() as opening:
                stream.on_end = opening.cancel
                websocket = await trio_websocket.wrap_client_stream(
                    reading,
                    stream,  # type: ignore[arg-type] # any stream works, according to its documentation
                    url.authority,
                    url.target,
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
        _log.debug(
            "client_websocket_closed", errors=[type(error).__name__ for error in errors.exceptions]
        )
    if not opened:
        task_status.started(None)


def reason_of_close(
    stream: WatchedStream, websocket: trio_websocket.WebSocketConnection
) -> CloseReason:
    """Why a WebSocket that has ended did so."""
    closed = websocket.closed
    if closed is not None:
        return CloseReason.from_close(closed.code, closed.reason)
    if stream.lost:
        return CloseReason.local("The connection ended without a close code.")
    return CloseReason.protocol_error("A frame violated RFC 6455.")
