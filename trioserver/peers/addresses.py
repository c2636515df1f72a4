"""Addresses of peers: what they count as, and which of them are trusted.

A peer is written "host:port", "[host]:port" or "host"; "unix" for a Unix socket's, and "" where
nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

UNIX: Final = "unix"
"""The peer of a Unix socket, and in a list of networks all of these."""

_IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that are one customer's; the rest is free for them to choose."""

_PORT: Final = re.compile(r"[0-9]{1,5}")

IPAddress: TypeAlias = IPv4Address | IPv6Address


def host_of(peer: str) -> str:
    """The part without the port, and without the brackets of an IPv6 address."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    host, colon, port = peer.rpartition(":")
    return host if colon and ":" not in host and _PORT.fullmatch(port) else peer


def parse_ip(host: str) -> IPAddress | None:
    """The address, that of IPv4 where it is mapped into IPv6; None for anything else."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def with_port(address: IPAddress, port: int | None) -> str:
    """A peer as it is written."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def plain(peer: str) -> str:
    """The peer, with an IPv4 address that is mapped into IPv6 as the former."""
    if not (peer.startswith("[") or peer.count(":") > 1):
        return peer
    address = parse_ip(host_of(peer))
    if address is None or address.version == 6:
        return peer
    port = peer.rpartition("]:")[2] if "]:" in peer else ""
    return with_port(address, int(port) if port else None)


def address_key(peer: str) -> str:
    """What a peer is counted under: an IPv4 address, an IPv6 network of 64 bits, any other name.

    Empty for those that are no address of anybody: Unix sockets, and where nobody knows.
    """
    host = host_of(peer)
    return "" if host in ("", UNIX) else _key_of_host(host)


@lru_cache(maxsize=1024)  # each connection asks several times
def _key_of_host(host: str) -> str:
    address = parse_ip(host)
    if isinstance(address, IPv6Address):
        network = IPv6Address(int(address) >> (128 - _IPV6_PREFIX) << (128 - _IPV6_PREFIX))
        return f"{network}/{_IPV6_PREFIX}"
    return host if address is None else str(address)


class Networks:
    """Some of the world's addresses, written as "10.0.0.0/8", "::1", or "unix".

    Raises `ValueError` with the entry that is neither.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        networks = set(entries)
        self._unix = UNIX in networks
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in sorted(networks - {UNIX}):
            try:
                self._networks.append(ip_network(entry))
            except ValueError as error:
                raise ValueError(
                    f"{entry!r} is no network: write it as 10.0.0.0/8, 192.0.2.1, fd00::/8 or "
                    f"{UNIX} ({error})"
                ) from None

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, peer: str) -> bool:
        host = host_of(peer)
        if host == UNIX:
            return self._unix
        if not self._networks:
            return False
        address = parse_ip(host)
        return address is not None and any(address in network for network in self._networks)
