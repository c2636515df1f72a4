"""A server that sends back what it gets, on the data plane as it is but for binary messages."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from protocol import ERRORS
from trioserver.websocket.frames import Binary, FrameDecoder
from trioserver.websocket.handshake import check_upgrade, read_head
from trioserver.websocket.headers import Opcode, encode_frame
from trioserver.websocket.poller import SocketPoller
from trioserver.websocket.send_queue import SendQueueClosed
from trioserver.websocket.websocket import WebSocket

_MAX_MESSAGE_BYTES: Final = 32 * 2**20
"""Cases 9.1.6, 9.2.6 and 9.3 to 9.6 send up to 16 MiB."""

_HEAD_BYTES: Final = 16 * 1024
_SEND_QUEUE_AGE: Final = 60.0
_CLOSE_TIMEOUT: Final = 2.0  # seconds; some cases watch how long a server waits for their Close


class _Echo:
    """The `MessageHandler`: answers each message, and notes with which code to close at the end."""

    about_to_send = False

    def __init__(self, websocket: WebSocket) -> None:
        self.ended = trio.Event()
        self.close_code = 1000
        self._websocket = websocket

    def on_messages(self, messages: list[bytes]) -> None:
        with suppress(SendQueueClosed):
            for message in messages:
                if isinstance(message, Binary):
                    self._websocket.send_queue.put_nowait(encode_frame(Opcode.BINARY, message))
                else:
                    self._websocket.send_nowait(message)

    def on_error(self, code: str) -> None:
        self.close_code = ERRORS[code].close_code or self.close_code
        self.ended.set()

    def on_disconnect(self) -> None:
        self.ended.set()


async def serve_echo(stream: trio.SocketStream, *, poller: SocketPoller | None) -> None:
    """Serve one connection to its end; with ``poller`` None it reads in a task of its own."""
    head = await read_head(stream, max_bytes=_HEAD_BYTES)
    check_upgrade(head)
    websocket = WebSocket(
        stream,
        max_message_bytes=_MAX_MESSAGE_BYTES,
        send_queue_bytes=2 * _MAX_MESSAGE_BYTES,
        send_queue_age=_SEND_QUEUE_AGE,
        poller=poller,
    )
    # The product understands text only, so that its constructor has no such option.
    websocket.protocol.decoder = FrameDecoder(
        masked=True, max_message_bytes=_MAX_MESSAGE_BYTES, binary=True
    )
    echo = _Echo(websocket)
    async with trio.open_nursery() as nursery:
        websocket.accept(nursery, head)
        websocket.start(nursery, echo)
        await echo.ended.wait()
        await websocket.close(echo.close_code, "", timeout=_CLOSE_TIMEOUT)
