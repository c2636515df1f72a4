"""What attackers, and those who mean well, are made of: a socket that does only what it is told."""

from __future__ import annotations

import socket
import struct
from collections import deque
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec
import trio

from tests.attacks.app import SECRET
from trioserver.auth import make_token
from trioserver.client.url import WebSocketURL
from trioserver.load.wire import (
    FrameReader,
    OpeningHandshake,
    UpgradeError,
    encode_masked,
    parse_close,
)
from trioserver.websocket.frames import Control
from trioserver.websocket.headers import Opcode

Target: TypeAlias = tuple[str, int]

YEAR: Final = 365 * 86400.0

_RESET: Final = struct.pack("ii", 1, 0)
_BIND_ADDRESS_NO_PORT: Final = 24  # of Linux's <netinet/in.h>: a port is chosen as it connects


def token(subject: str = "good", **options: Any) -> str:
    """One that the application takes, for years before and after now."""
    claims = {"iat": 1_000_000_000, **options.pop("claims", {})}
    return make_token(SECRET, subject=subject, claims=claims, **{"lifetime": 20 * YEAR, **options})


def source(number: int) -> str:
    """An address of this machine for attackers; good clients have others."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


class Peer:
    """A TCP connection. What fails on it raises `OSError`; `close` ends it with a reset."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.closed_with: tuple[int, str] | None = None
        self.pings = 0
        self._reader = FrameReader()
        self._items: deque[Any] = deque()

    @classmethod
    async def open(
        cls, target: Target, source: str = "127.0.0.1", *, receive_buffer: int | None = None
    ) -> Peer:
        sock = trio.socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await sock.bind((source, 0))
            await sock.connect(target)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        """With a reset: thousands of closed connections must not keep their ports for a minute."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -------------------------------------------------------------------------- bytes

    async def send(self, data: bytes) -> None:
        with memoryview(data) as rest:
            while rest:
                rest = rest[await self.sock.send(rest) :]

    async def receive(self) -> bytes:
        """Empty at the end, which a reset is too."""
        with suppress(ConnectionError):
            return await self.sock.recv(65536)
        return b""

    async def wait_end(self) -> None:
        """Take all that comes until the server has ended the connection."""
        while await self.receive():
            pass

    # -------------------------------------------------------------------------- WebSockets

    async def upgrade(self, path: str = "/ws") -> None:
        """Raises `UpgradeError`: status None where the server just ended it."""
        host, port = self.sock.getpeername()
        upgrade = OpeningHandshake(WebSocketURL(host=host, port=port, secure=False, path=path))
        await self.send(upgrade.request)
        while True:
            data = await self.receive()
            if not data:
                raise UpgradeError(None, None)
            rest = upgrade.receive(data)
            if rest is not None:
                self._items.extend(self._reader.receive(rest))
                return

    async def say(self, **message: Any) -> None:
        await self.send(encode_masked(msgspec.json.encode(message)))

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None at the end. Pings are answered on the way."""
        while True:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, bytes):
                    return msgspec.json.decode(item, type=dict[str, Any])
                await self._take_control(item)
            data = await self.receive()
            if not data:
                return None
            self._items.extend(self._reader.receive(data))

    async def _take_control(self, item: Any) -> None:
        assert isinstance(item, Control), item
        if item.opcode is Opcode.PING:
            self.pings += 1
            await self.send(encode_masked(item.payload, Opcode.PONG))
        elif item.opcode is Opcode.CLOSE:
            self.closed_with = parse_close(item)
            with suppress(OSError, trio.BusyResourceError):  # the attack goes on
                await self.send(encode_masked(item.payload, Opcode.CLOSE))

    async def hear_until(self, *types: str) -> dict[str, Any]:
        """The next message of these types. Raises `ConnectionResetError` at the end."""
        while (message := await self.hear()) is not None:
            if message["type"] in types:
                return message
        raise ConnectionResetError(f"closed with {self.closed_with}")

    async def authenticate(self, token: str) -> str:
        """``ready``, or the code of the error."""
        await self.say(type="auth", token=token)
        answer = await self.hear_until("ready", "error")
        return "ready" if answer["type"] == "ready" else str(answer["code"])

    async def get_ready(self, token: str, path: str = "/ws") -> str:
        """``ready``, or why not: an error's code, ``http_STATUS``, or ``dropped``."""
        try:
            await self.upgrade(path)
            return await self.authenticate(token)
        except UpgradeError as refused:
            return "dropped" if refused.status is None else f"http_{refused.status}"
        except OSError:
            return self.closed_with[1] if self.closed_with else "dropped"


async def get(target: Target, path: str) -> str:
    """The body of an answer over HTTP."""
    with await Peer.open(target) as peer:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        await peer.send(request.encode())
        answer = b""
        while data := await peer.receive():
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0], head
    if b"transfer-encoding: chunked" in head.lower():
        return _dechunked(body).decode()
    return body.decode()


def _dechunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(body[:length])
        body = body[length + 2 :]
    return b"".join(pieces)
