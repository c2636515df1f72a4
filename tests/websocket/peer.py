"""A raw client for tests, with every mistake possible; and a receiver that notes what happens."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import attrs
import trio

from trioserver.websocket.headers import Opcode
from trioserver.websocket.masking import apply_mask

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455, section 1.3."""

UPGRADE: Final = (
    "GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
    form: int | None = None,
    mask: bytes | None = None,
) -> bytes:
    """A frame. ``length`` may lie about the payload's; ``form``: the bytes it is told in."""
    size = len(payload) if length is None else length
    if form is None:
        form = 0 if size < 126 else 2 if size < 2**16 else 8
    second = {0: size, 2: 126, 8: 127}[form] | 0x80 * masked
    head = bytes((0x80 * final | reserved << 4 | opcode, second))
    head += size.to_bytes(form, "big") if form else b""
    if not masked:
        return head + payload
    mask = mask or os.urandom(4)
    return head + mask + apply_mask(payload, mask)


def text(message: str | bytes) -> bytes:
    """A text message in one frame."""
    return frame(Opcode.TEXT, message.encode() if isinstance(message, str) else message)


def close(code: int = 1000, reason: str = "") -> bytes:
    """A Close frame."""
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


class Peer:
    """The client's end of a stream. `receive` gives one frame, None at the end of the stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.head = b""
        self._buffer = bytearray()

    async def send(self, *frames: bytes) -> None:
        """All of them in one segment."""
        await self.stream.send_all(b"".join(frames))

    async def upgrade(self, rest: bytes = b"", request: bytes = UPGRADE) -> None:
        """Open, with ``rest`` in the same segment; the answer is kept in ``head``."""
        await self.send(request, rest)
        while b"\r\n\r\n" not in self._buffer:
            assert await self._more(), "ended in the middle of the head"
        self.head, _, behind = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = behind

    async def receive(self) -> tuple[Opcode, bytes] | None:
        """The next frame; what the server sends is whole, small and not masked."""
        head = await self._take(2)
        if head is None:
            return None
        assert head[0] & 0xF0 == 0x80
        assert not head[1] & 0x80
        size = head[1]
        if size > 125:
            extended = await self._take(2 if size == 126 else 8)
            assert extended is not None
            size = int.from_bytes(extended, "big")
        payload = await self._take(size)
        assert payload is not None, "ended in the middle of a frame"
        return Opcode(head[0] & 0x0F), payload

    async def receive_all(self) -> list[tuple[Opcode, bytes]]:
        """All frames up to the end of the stream."""
        frames = []
        while (received := await self.receive()) is not None:
            frames.append(received)
        return frames

    async def expect_close(self) -> int:
        """The code of the Close frame that comes next, 1005 where it has none."""
        received = await self.receive()
        assert received is not None
        assert received[0] is Opcode.CLOSE
        return int.from_bytes(received[1][:2], "big") if received[1] else 1005

    async def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not await self._more():
                assert not self._buffer, "ended in the middle of a frame"
                return None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _more(self) -> bool:
        data = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            data = bytes(await self.stream.receive_some())
        self._buffer += data
        return bool(data)


@attrs.define
class Notes:
    """A `MessageHandler` that notes what happens, and wakes whoever waits for it."""

    batches: list[list[bytes]] = attrs.field(factory=list)
    codes: list[str] = attrs.field(factory=list)
    departures: int = 0
    happened: trio.Event = attrs.field(factory=trio.Event)
    about_to_send: bool = False

    @property
    def messages(self) -> list[bytes]:
        """All of them, batches forgotten."""
        return [message for batch in self.batches for message in batch]

    def on_messages(self, messages: list[bytes]) -> None:
        assert not self.codes, "no message follows a failure"
        assert not self.departures, "no message follows the end"
        self.batches.append(messages)
        self._wake()

    def on_error(self, code: str) -> None:
        self.codes.append(code)
        self._wake()

    def on_disconnect(self) -> None:
        self.departures += 1
        self._wake()

    async def wait(self, *, messages: int = 0, codes: int = 0, departures: int = 0) -> None:
        """Wait until so many of each have come."""
        while (
            len(self.messages) < messages or len(self.codes) < codes or self.departures < departures
        ):
            await self.happened.wait()

    def _wake(self) -> None:
        self.happened.set()
        self.happened = trio.Event()
