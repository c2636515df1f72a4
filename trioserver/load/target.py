"""Chooses the address to connect to: this machine, unless the user says that the host is theirs."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import trio

from trioserver.client.url import WebSocketURL

SockAddr: TypeAlias = tuple[Any, ...]
ResolvedAddress: TypeAlias = tuple[int, SockAddr]
"""An address family and a socket address, as in the socket module."""

_LOOKUP_TIMEOUT: Final = 10.0
_CONNECT_TIMEOUT: Final = 5.0


class TargetError(Exception):
    """The target must not, or cannot, be tested; the text says why."""


async def choose_target(url: WebSocketURL, *, mine: bool) -> ResolvedAddress:
    """Choose the first address of the host that accepts connections.

    Unless ``mine``, every address of the host must be a loopback address. The name is resolved only
    once, so that the checked address is the one that is used. Raises `TargetError`.
    """
    addresses = await _resolve(url)
    if not mine and (remote := [found for found in addresses if not is_loopback(found[1][0])]):
        where = remote[0][1][0]
        called = where if where == url.host else f"{url.host} ({where})"
        raise TargetError(
            f"{called} is not this machine: to load a server that is yours, say --i-own-this-host"
        )
    return await _first_that_accepts(url, addresses)


def is_loopback(host: str) -> bool:
    """Whether a numeric address is a loopback address; IPv4 addresses mapped to IPv6 count too."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


async def _resolve(url: WebSocketURL) -> list[ResolvedAddress]:
    found: Sequence[Any] = ()
    reason = "no answer"
    with trio.move_on_after(_LOOKUP_TIMEOUT):
        try:
            found = await trio.socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not a name"
    if not found:
        raise TargetError(f"cannot look up {url.host}: {reason}")
    return [(int(family), sockaddr) for family, _, _, _, sockaddr in found]


async def _first_that_accepts(
    url: WebSocketURL, addresses: list[ResolvedAddress]
) -> ResolvedAddress:
    reason = "no answer"
    for family, sockaddr in addresses:
        with (
            trio.move_on_after(_CONNECT_TIMEOUT),
            trio.socket.socket(family, socket.SOCK_STREAM) as probe,
        ):
            try:
                await probe.connect(sockaddr)
            except OSError as error:
                reason = error.strerror or type(error).__name__
            else:
                return family, sockaddr
    raise TargetError(f"cannot connect to {url.authority}: {reason}")
