"""Requests that are too large, too many-headed, or two at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Final

import attrs
import trio

from tests.attacks.field import Field
from tests.attacks.peers import Peer, source, token
from trioserver.load.wire import UpgradeError, encode_masked

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

_HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
_SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


@attrs.frozen
class Bytes:
    """What an attacker sends: once, then ``again`` and again. ``ready``: as a client that is."""

    once: bytes
    again: bytes = b""
    ready: bool | None = None
    """None: as plain HTTP; else after the opening handshake, False being not authenticated."""


def _frame_header(opcode: int, size: int) -> bytes:
    """Of a masked frame that announces so many bytes; its mask is zero."""
    return bytes((opcode, 0xFF)) + size.to_bytes(8, "big") + bytes(4)


_ENDLESS_FRAGMENT: Final = (
    bytes((0x00, 0xFE)) + (60_000).to_bytes(2, "big") + bytes(4) + b"x" * 60_000
)

TOO_LARGE: Final[Mapping[str, Bytes]] = {
    "a message of 2^62 bytes": Bytes(_frame_header(0x81, 2**62), b"x" * 60_000, ready=True),
    "a message of 64 MiB": Bytes(_frame_header(0x81, 64 * _MIB), b"x" * 60_000, ready=True),
    "a message without an end": Bytes(
        bytes((0x01, 0xFE)) + (60_000).to_bytes(2, "big") + bytes(4) + b"x" * 60_000,
        _ENDLESS_FRAGMENT,
        ready=True,
    ),
    "a token of 1 MiB": Bytes(
        encode_masked(b'{"type":"auth","token":"' + b"x" * _MIB + b'"}'), ready=False
    ),
    "a long control frame": Bytes(bytes((0x89, 0xFE, 0xFF, 0xFF)) + bytes(4), b"x", ready=True),
    "a body of 1 GiB": Bytes(
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n", b"x" * 60_000
    ),
    "a body without an end": Bytes(
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"ea60\r\n" + b"x" * 60_000 + b"\r\n",
    ),
}

HEADER_BOMBS: Final[Mapping[str, Bytes]] = {
    "a path without an end": Bytes(b"GET /", b"x" * 60_000),
    "a header without an end": Bytes(_HANDSHAKE + b"X: ", b"x" * 60_000),
    "headers without an end": Bytes(_HANDSHAKE, b"X: y\r\n" * 10_000),
    "3,000 headers": Bytes(_HANDSHAKE + b"X:\r\n" * 3000 + b"\r\n"),
    "2 MiB of cookies": Bytes(_HANDSHAKE + b"Cookie: a=b\r\n" * 160_000 + b"\r\n"),
}

AMBIGUOUS: Final[Mapping[str, Bytes]] = {
    name: Bytes(data + _SMUGGLED)
    for name, data in {
        "both lengths": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "both lengths in an upgrade": _HANDSHAKE + b"Content-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        b"Content-Length: 38\r\n\r\n",
        "a folded length": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 38\r\n\r\n",
        "a folded coding": b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n"
        b"0\r\n\r\n",
        "a folded upgrade": b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade:\r\n"
        b" websocket\r\n\r\n",
        "two upgrades": _HANDSHAKE + b"Upgrade: websocket\r\n\r\n",
        "an upgrade to h2c as well": _HANDSHAKE + b"Upgrade: h2c\r\n\r\n",
        "a bare line feed": b"GET /a HTTP/1.1\nHost: x\n\n",
        "a space before the colon": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 38\r\n\r\n",
    }.items()
}

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")


async def send_all(
    field: Field, kinds: Mapping[str, Bytes], attackers: int, *, seconds: float
) -> Counter[str]:
    """Each attacker sends one after the other, beginning with another; how they were answered."""
    answers: Counter[str] = Counter()
    every: Sequence[Bytes] = [*kinds.values()]

    async def attacker(number: int) -> None:
        for kind in islice(cycle(every), number, None):
            try:
                with await Peer.open(field.target, source(number)) as peer:
                    answers[await _attack(peer, kind, number)] += 1
            except (OSError, UpgradeError):
                answers["cut off"] += 1
            await trio.sleep(0.05)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(attackers):
                nursery.start_soon(attacker, number)
    return answers


async def _attack(peer: Peer, kind: Bytes, number: int) -> str:
    if kind.ready is not None:
        await peer.upgrade()
        if kind.ready:
            await peer.authenticate(token(f"large-{number}"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, peer, kind)
        answer = await _close_reason(peer) if kind.ready is not None else await _statuses(peer)
        nursery.cancel_scope.cancel()
    return answer


async def _send(peer: Peer, kind: Bytes) -> None:
    # The server has heard enough; perhaps its Close is just being answered.
    with suppress(OSError, trio.BusyResourceError):
        await peer.send(kind.once)
        while kind.again:
            await peer.send(kind.again)


async def _close_reason(peer: Peer) -> str:
    with suppress(OSError):
        while await peer.hear() is not None and peer.closed_with is None:
            pass
    return f"{peer.closed_with[0]} {peer.closed_with[1]}" if peer.closed_with else "cut off"


async def _statuses(peer: Peer) -> str:
    answer = b""
    while data := await peer.receive():
        answer += data
    statuses = [status.decode() for status in _STATUS.findall(answer)]
    return " ".join(statuses) or "cut off"
