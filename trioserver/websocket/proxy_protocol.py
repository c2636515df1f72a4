"""PROXY protocol, versions 1 and 2: a proxy says whose connection this is, before anything else.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2. The header is taken off the
socket to the byte, so that what is behind it, a TLS handshake perhaps, finds the socket untouched.
"""

from __future__ import annotations

import re
import struct
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from socket import MSG_PEEK
from typing import Final

import attrs
import trio

from trioserver.peers.addresses import with_port

_MAX_V1: Final = 107  # with CRLF; section 2.1
_MAX_V2: Final = 4096
"""Bytes of a header of version 2. 216 are for addresses; the rest is for what is skipped."""

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = struct.Struct(">12sBBH")

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX: Final = 0x31

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")


class BadProxyHeader(Exception):
    """There is no PROXY header, or one that cannot be parsed; the text says what is wrong."""


@attrs.frozen
class ProxyHeader:
    """What the proxy says. ``source`` is "host:port" or "unix"; None where it speaks for itself.

    ``size`` is how many bytes the header has.
    """

    source: str | None
    size: int


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header that ``data`` begins with; None while more is needed. `BadProxyHeader`."""
    if data[:1] == _V2[:1]:
        return _parse_v2(data)
    if not (data.startswith(_V1) or _V1.startswith(data)):
        raise BadProxyHeader("the connection does not begin with a PROXY header")
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end >= 0:
        return ProxyHeader(_parse_v1(data[:end]), end + 2)
    if len(data) >= _MAX_V1:
        raise BadProxyHeader("the line has no end")
    return None


def _parse_v1(line: bytes) -> str | None:
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadProxyHeader("the line is not ASCII") from None
    if words[1] == "UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise BadProxyHeader("the line is not 'PROXY TCP4|TCP6 source destination port port'")
    _, family, source, destination, *ports = words
    kind = IPv4Address if family == "TCP4" else IPv6Address
    try:
        address = kind(source)
        kind(destination)
    except AddressValueError:
        raise BadProxyHeader(f"an address is not of {family}") from None
    if "%" in source or not all(_PORT.fullmatch(p) and int(p) < 65536 for p in ports):
        raise BadProxyHeader("an address or a port is malformed")
    return with_port(address, int(ports[0]))


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if not data.startswith(_V2[: len(data)]):
        raise BadProxyHeader("the connection does not begin with a PROXY header")
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    size = _FIXED.size + length
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"version and command are 0x{command:02x}, not 0x20 or 0x21")
    if size > _MAX_V2:
        raise BadProxyHeader(f"the header is larger than {_MAX_V2} bytes")
    if len(data) < size:
        return None
    source = None if command == _LOCAL else _source(family, data[_FIXED.size : size])
    return ProxyHeader(source, size)


def _source(family: int, block: bytes) -> str | None:
    """The source of a connection by proxy; what stands behind the addresses is skipped."""
    if family == _UNSPECIFIED:
        return None
    size = {_TCP4: 12, _TCP6: 36, _UNIX: 216}.get(family)
    if size is None:
        raise BadProxyHeader(f"the family and transport 0x{family:02x} are not for streams")
    if len(block) < size:
        raise BadProxyHeader("the addresses are cut short")
    if family == _UNIX:
        return "unix"
    if family == _TCP4:
        return with_port(IPv4Address(block[:4]), int.from_bytes(block[8:10], "big"))
    return with_port(IPv6Address(block[:16]), int.from_bytes(block[32:34], "big"))


async def read_proxy_header(socket: trio.socket.SocketType) -> str | None:
    """Take the header off a socket, and say the source: as in `ProxyHeader`.

    Raises `BadProxyHeader`, and `OSError` of the socket. Has no deadline. Cancelling this leaves
    a part of the header unread: the socket is of no use then.
    """
    taken = b""
    while True:
        data = taken + await socket.recv(_MAX_V2, MSG_PEEK)
        if len(data) == len(taken):
            raise BadProxyHeader("the peer disconnected before the header was complete")
        header = parse_proxy_header(data)
        size = len(data) if header is None else header.size
        while len(taken) < size:  # all of it is there, and belongs to the header
            taken += await socket.recv(size - len(taken))
        if header is not None:
            return header.source
