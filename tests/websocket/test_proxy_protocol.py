"""The header that a proxy sends ahead of all else."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.patience import PATIENCE
from trioserver.websocket.proxy_protocol import (
    BadProxyHeader,
    parse_proxy_header,
    read_proxy_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAPPED = "::ffff:192.0.2.1"
TLV = b"\x04\x00\x05hello"


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def addresses(source: str, port: int) -> bytes:
    packed = ip_address(source).packed
    return packed + packed + struct.pack(">HH", port, 443)


UNIX = b"/run/a".ljust(108, b"\0") * 2

GOOD = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n", "192.0.2.1:5000"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n", "[2001:db8::1]:5000"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", "192.0.2.1:0"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    (v2(0x21, 0x11, addresses("192.0.2.1", 5000)), "192.0.2.1:5000"),
    (v2(0x21, 0x11, addresses("192.0.2.1", 5000) + TLV), "192.0.2.1:5000"),
    (v2(0x21, 0x21, addresses("2001:db8::1", 5000)), "[2001:db8::1]:5000"),
    (v2(0x21, 0x21, addresses(MAPPED, 5000) + TLV * 9), f"[{ip_address(MAPPED)}]:5000"),
    (v2(0x21, 0x31, UNIX), "unix"),
    (v2(0x21, 0x00, b""), None),
    (v2(0x21, 0x00, TLV), None),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, addresses("192.0.2.1", 5000)), None),
    (v2(0x20, 0xFF, TLV), None),
    (v2(0x21, 0x00, bytes(4080)), None),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"\r\n"])
def test_a_good_header_is_read_to_its_end(header: bytes, source: str | None, behind: bytes) -> None:
    read = parse_proxy_header(header + behind)
    assert read is not None
    assert (read.source, read.size) == (source, len(header))


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_a_part_of_a_header_wants_more(header: bytes, source: str | None) -> None:
    assert all(parse_proxy_header(header[:size]) is None for size in range(1, len(header)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXYTCP4",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 localhost 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%lo fe80::1 1 2\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \xb2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + b"x" * 100,
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        SIGNATURE[:-1] + b"\r",
        b"\r\n\r\n\r\n",
        v2(0x11, 0x11, addresses("192.0.2.1", 1)),
        v2(0x22, 0x11, addresses("192.0.2.1", 1)),
        v2(0x21, 0x12, addresses("192.0.2.1", 1)),
        v2(0x21, 0x41, addresses("192.0.2.1", 1)),
        v2(0x21, 0x11, addresses("192.0.2.1", 1)[:-1]),
        v2(0x21, 0x21, addresses("192.0.2.1", 1)),
        v2(0x21, 0x31, UNIX[:-1]),
        SIGNATURE + b"\x21\x11\xff\xff",
        v2(0x21, 0x00, bytes(4081)),
    ],
)
def test_a_bad_header_is_none(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        parse_proxy_header(data)


@given(st.binary(min_size=1), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
def test_whatever_comes_is_a_header_or_none(data: bytes, begin: bytes) -> None:
    try:
        header = parse_proxy_header(begin + data)
    except BadProxyHeader:
        return
    assert header is None or header.size <= len(begin + data)


async def test_the_header_is_taken_off_the_socket_to_the_byte() -> None:
    for header, source in GOOD:
        for cut in (1, len(header) // 2, len(header) - 1, len(header)):
            near, far = (trio.socket.from_stdlib_socket(s) for s in socket.socketpair())
            with near, far:
                async with trio.open_nursery() as nursery:
                    await far.send(header[:cut])
                    nursery.start_soon(_expect, near, source)
                    await trio.testing.wait_all_tasks_blocked()
                    await far.send(header[cut:] + b"behind")
                assert await near.recv(100) == b"behind"


async def _expect(socket: trio.socket.SocketType, source: str | None) -> None:
    with trio.fail_after(PATIENCE):
        assert await read_proxy_header(socket) == source


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4", SIGNATURE])
async def test_a_peer_that_leaves_in_between_is_noticed(begun: bytes) -> None:
    near, far = (trio.socket.from_stdlib_socket(s) for s in socket.socketpair())
    with near:
        with far:
            if begun:
                await far.send(begun)
        with trio.fail_after(PATIENCE), pytest.raises(BadProxyHeader, match="disconnected before"):
            await read_proxy_header(near)
