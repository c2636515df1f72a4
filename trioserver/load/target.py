"""Whose server it is: the load tester goes for this machine, unless its user owns the other."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import trio

from trioserver.client.url import WebSocketURL

SockAddr: TypeAlias = tuple[Any, ...]
Place: TypeAlias = tuple[int, SockAddr]
"""A family of addresses and an address, as the socket module has them."""

_LOOKUP_TIMEOUT: Final = 10.0
_CONNECT_TIMEOUT: Final = 5.0


class TargetRefused(Exception):
    """The target is not to be loaded, or cannot be; the text says why in a sentence."""


async def choose_target(address: WebSocketURL, *, mine: bool) -> Place:
    """Where all clients will connect to: the first address of the host that accepts connections.

    Unless ``mine``, every address of the host must be loopback. The name is looked up once, and
    what was judged is what is used. Raises `TargetRefused`.
    """
    places = await _resolve(address)
    if not mine and (strangers := [place for place in places if not is_loopback(place[1][0])]):
        where = strangers[0][1][0]
        called = where if where == address.host else f"{address.host} ({where})"
        raise TargetRefused(
            f"{called} is not this machine: to load a server that is yours, say --i-own-this-host"
        )
    return await _first_that_accepts(address, places)


def is_loopback(host: str) -> bool:
    """Whether an address, in numbers, is this machine's own; IPv4 in IPv6 counts as what it is."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_loopback


async def _resolve(address: WebSocketURL) -> list[Place]:
    found: Sequence[Any] = ()
    reason = "no answer"
    with trio.move_on_after(_LOOKUP_TIMEOUT):
        try:
            found = await trio.socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not a name"
    if not found:
        raise TargetRefused(f"cannot look up {address.host}: {reason}")
    return [(int(family), sockaddr) for family, _, _, _, sockaddr in found]


async def _first_that_accepts(address: WebSocketURL, places: list[Place]) -> Place:
    reason = "no answer"
    for family, sockaddr in places:
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
    raise TargetRefused(f"cannot connect to {address.authority}: {reason}")
