"""The client's address in headers of trusted proxies: X-Forwarded-For, Forwarded (RFC 7239).

Each proxy appends the address that it was connected from. So the nearest proxy wrote the last
element, and anybody may have invented the first one. Elements are read from the right for as long
as a trusted proxy wrote them; those further left are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from trioserver.peers.addresses import Networks, parse_ip, with_port

MAX_HOPS: Final = 32
"""Proxies in a row that are followed; more is a loop, or an attack."""

_MAX_ELEMENT: Final = 512
"""Maximum characters of one element of Forwarded; a longer one is not read."""

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_BARE: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+"  # with what some proxies do not quote
_PAIR: Final = re.compile(rf"({_NAME})=({_BARE}|{_QUOTED})")
_ELEMENT: Final = re.compile(rf"\s*{_PAIR.pattern}(?:\s*;(?:\s*{_PAIR.pattern})?)*\s*")
_OBFUSCATED: Final = re.compile(r"_[A-Za-z0-9._-]{1,64}")  # RFC 7239, section 6.3
_NODE: Final = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<plain>[0-9.]+))(?::(?P<port>[0-9]{1,5}|_[\w.-]+))?"
)


def client_of(peer: str, header: str, lines: Sequence[str], trusted: Networks) -> str:
    """Return the client of ``peer``, a trusted proxy: "host:port", "host", or an obfuscated name.

    ``header`` is "forwarded" or "x-forwarded-for", ``lines`` its values in order. If a trusted
    proxy names no client, or the element is malformed, the result is that proxy.
    """
    nodes = _forwarded(lines) if header == "forwarded" else _x_forwarded_for(lines)
    for _, node in zip(range(MAX_HOPS), nodes, strict=False):
        if peer not in trusted:
            break
        said = _peer(node)
        if said is None:
            break
        peer = said
    return peer


def _peer(node: str) -> str | None:
    """RFC 7239, section 6, and what X-Forwarded-For has: IPv6 without brackets, or with a port."""
    if _OBFUSCATED.fullmatch(node):
        return node
    match = _NODE.fullmatch(node)
    host = node if match is None else match["bracketed"] or match["plain"]
    address = parse_ip(host)
    if address is None or "%" in host:
        return None
    port = match["port"] if match else None
    return with_port(address, int(port) if port and port.isdigit() else None)


def _x_forwarded_for(lines: Sequence[str]) -> Iterator[str]:
    for line in reversed(lines):
        while line.strip():
            line, _, node = line.rpartition(",")
            yield node.strip()


def _forwarded(lines: Iterable[str]) -> Iterator[str]:
    """Yield the values of ``for``, from the right; "" for an element that is malformed.

    They are read from the right because what a client wrote, such as a quote without an end,
    stands to the left of what proxies have appended, and must not hide that.
    """
    for line in reversed(list(lines)):
        while line.strip():
            line, element = _split_last(line)
            yield _for(element)


def _split_last(line: str) -> tuple[str, str]:
    """Split at the last comma behind which there is a well-formed element."""
    at = len(line)
    while (at := line.rfind(",", 0, at)) >= 0 and len(line) - at <= _MAX_ELEMENT:
        if _ELEMENT.fullmatch(line, at + 1):
            return line[:at], line[at + 1 :]
    return "", line


def _for(element: str) -> str:
    if len(element) > _MAX_ELEMENT or not _ELEMENT.fullmatch(element):
        return ""
    for name, value in _PAIR.findall(element):
        if name.lower() == "for":
            return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return ""
