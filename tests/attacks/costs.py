"""Bytes that are dear to judge: for each attacker's microsecond the server is to spend many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import attrs
import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token
from trioserver.load.wire import UpgradeError, encode_masked
from trioserver.websocket.headers import Opcode

_MIB: Final = 1024 * 1024

_HANDSHAKE: Final = (
    b"GET /ws%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n%s\r\n"
)
_POST: Final = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

_FIRST_FRAGMENT: Final = bytes((0x01, 0x80)) + bytes(4)
_EMPTY_FRAGMENT: Final = bytes((0x00, 0x80)) + bytes(4)


def _long_frame(size: int) -> bytes:
    """The header of a text frame whose mask is zero."""
    return bytes((0x81, 0xFE if size < 65536 else 0xFF)) + (
        size.to_bytes(2 if size < 65536 else 8, "big") + bytes(4)
    )


def _message(type: bytes, data: bytes) -> bytes:
    return encode_masked(b'{"type":"%b","id":1,"data":[%b1]}' % (type, data))


_TOWERS: Final = (b"[" * 60 + b"]" * 60 + b",") * 8600

MESSAGES: Final[Mapping[str, bytes]] = {
    "nested arrays": _message(b"unknown", _TOWERS),
    "nested arrays in two quotes": _message(b"unknown", _TOWERS[: _MIB // 2] + b'"",' * 150_000),
    "large exponents": _message(b"echo", b"1.1e300," * 130_000),
    "digits": _message(b"echo", (b"1" * 4000 + b",") * 260),
    "no JSON": encode_masked(b"[" * _MIB),
}


@attrs.frozen
class Pieces:
    """What is sent over and over, once a peer has come as far as ``ready`` says.

    None is plain HTTP, False behind the opening handshake, True behind `ready`. ``pause`` is
    between two sends, in seconds.
    """

    again: bytes
    first: bytes = b""
    ready: bool | None = None
    pause: float = 0.0


_PINGS: Final = encode_masked(b"", Opcode.PING) * 1000
_PONGS: Final = encode_masked(b"", Opcode.PONG) * 1000

PIECES: Final[Mapping[str, Pieces]] = {
    "pings": Pieces(_PINGS, ready=True),
    "pings before `ready`": Pieces(_PINGS, ready=False),
    "pongs": Pieces(_PONGS, ready=True),
    "empty fragments": Pieces(_EMPTY_FRAGMENT * 1000, _FIRST_FRAGMENT, ready=True),
    "empty fragments before `ready`": Pieces(_EMPTY_FRAGMENT * 1000, _FIRST_FRAGMENT, ready=False),
    "single bytes": Pieces(b"x", _long_frame(_MIB), ready=True, pause=0.0005),
    "single bytes before `ready`": Pieces(b"x", _long_frame(16_000), ready=False, pause=0.0005),
    "a head in single bytes": Pieces(b"x", b"GET /", pause=0.0005),
    "chunks of one byte": Pieces(b"1\r\nx\r\n" * 10_000, _POST),
    "single bytes of a chunk": Pieces(b"x", _POST + b"fffff\r\n", pause=0.0005),
}

HEADS: Final[Mapping[str, bytes]] = {
    "an Origin of dots": _HANDSHAKE % (b"", b"Origin: https://" + b"a." * 7900 + b"evil\r\n"),
    "3,000 headers": _HANDSHAKE % (b"", b"X:\r\n" * 3000),
    "a query of 7,900 names": _HANDSHAKE % (b"?" + b"&a" * 7900, b""),
    "7,900 subprotocols": _HANDSHAKE % (b"", b"Sec-WebSocket-Protocol: " + b"a," * 7900 + b"\r\n"),
    "7,900 addresses": _HANDSHAKE % (b"", b"X-Forwarded-For: " + b"a," * 7900 + b"\r\n"),
    "an escaped path": _HANDSHAKE % (b"/" + b"%41" * 5200, b""),
}


async def send_messages(
    field: Field, message: bytes, peers: int, *, seconds: float
) -> Counter[str]:
    """All of one user's; each time, all of them end their message at the same moment."""
    fared: Counter[str] = Counter()
    turn = trio.Event()

    async def attacker(number: int) -> None:
        while True:
            with suppress(OSError), await Peer.open(field.target, source(number)) as peer:
                if await peer.get_ready(token("one user")) == "ready":
                    await exchange(peer)
                fared[peer.closed_with[1] if peer.closed_with else "cut off"] += 1
            await trio.sleep(0.1)

    async def exchange(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, peer, nursery.cancel_scope)
            with suppress(OSError):
                while True:
                    await peer.send(message[:-1])
                    await turn.wait()
                    await peer.send(message[-1:])
                    fared["messages"] += 1

    async def listen(peer: Peer, scope: trio.CancelScope) -> None:
        with suppress(OSError):
            while await peer.hear() is not None:
                pass
        scope.cancel()

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(peers):
                nursery.start_soon(attacker, number)
            while True:
                await trio.sleep(0.5)
                turn.set()
                turn = trio.Event()
    return fared


async def send_pieces(field: Field, pieces: Pieces, peers: int, *, seconds: float) -> Counter[str]:
    """Each sends them for as long as it is let, and comes back when it is not."""
    fared: Counter[str] = Counter()

    async def attacker(number: int) -> None:
        while True:
            with suppress(OSError, UpgradeError):
                with await Peer.open(field.target, source(number)) as peer:
                    await _send_pieces(peer, pieces, number, fared)
                fared[peer.closed_with[1] if peer.closed_with else "cut off"] += 1
            await trio.sleep(0.1)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(peers):
                nursery.start_soon(attacker, number)
    return fared


async def _send_pieces(peer: Peer, pieces: Pieces, number: int, fared: Counter[str]) -> None:
    if pieces.ready is not None:
        await peer.upgrade()
        if pieces.ready:
            await peer.authenticate(token(f"pieces-{number}"))
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(OSError, trio.BusyResourceError):
                await peer.send(pieces.first)
                while True:
                    await peer.send(pieces.again)
                    fared["sent"] += 1
                    await trio.sleep(pieces.pause)

        nursery.start_soon(send)
        if pieces.ready is None:
            await peer.wait_end()
        else:
            while await peer.hear() is not None and peer.closed_with is None:
                pass
        nursery.cancel_scope.cancel()


async def send_heads(field: Field, head: bytes, peers: int, *, seconds: float) -> Counter[str]:
    """One after the other, each on a connection of its own; the statuses."""
    answers: Counter[str] = Counter()

    async def attacker(number: int) -> None:
        while True:
            with suppress(OSError), await Peer.open(field.target, source(number)) as peer:
                await peer.send(head)
                status = (await peer.receive())[9:12].decode() or "cut off"
                answers[status] += 1
            await trio.sleep(0.005)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(peers):
                nursery.start_soon(attacker, number)
    return answers
