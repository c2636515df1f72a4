"""Addresses of peers: the key that an address counts under, and lists of networks.

A peer is written "host:port", "[host]:port" or "host". It is "unix" for a Unix socket, and "" if
it is not known.
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
"""The peer of a Unix socket; in a list of networks, all Unix sockets."""

_IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that name a customer, who can choose the other bits at will."""

_PORT: Final = re.compile(r"[0-9]{1,5}")

IPAddress: TypeAlias = IPv4Address | IPv6Address


def host_of(peer: str) -> str:
    """Return the host of a peer, without the port and the brackets of an IPv6 address."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    host, colon, port = peer.rpartition(":")
    return host if colon and ":" not in host and _PORT.fullmatch(port) else peer


def parse_ip(host: str) -> IPAddress | None:
    """Return the IP address, as IPv4 if it is mapped into IPv6; None if the host is not one."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def with_port(address: IPAddress, port: int | None) -> str:
    """Write an address as a peer."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def plain(peer: str) -> str:
    """Return the peer, with an IPv4 address instead of one that is mapped into IPv6."""
    if not (peer.startswith("[") or peer.count(":") > 1):
        return peer
    address = parse_ip(host_of(peer))
    if address is None or address.version == 6:
        return peer
    port = peer.rpartition("]:")[2] if "]:" in peer else ""
    return with_port(address, int(port) if port else None)


def address_key(peer: str) -> str:
    """Return what a peer counts under: an IPv4 address, an IPv6 /64 network, or any other name.

    Empty for a Unix socket, and for a peer that is not known: these are nobody's address.
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
    """A set of addresses, written as "10.0.0.0/8", "::1", or "unix".

    Raises `ValueError` for an entry that is neither a network nor an address nor "unix".
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
                    f"{entry!r} is not a network: write 10.0.0.0/8, 192.0.2.1, fd00::/8 or "
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
