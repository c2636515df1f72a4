"""The URLs of a server, printed when it starts."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs

from trioserver.auth.loopback import is_loopback
from trioserver.config import HttpConfig
from trioserver.websocket.listeners import ListenAddress

_FAR_AWAY: Final = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1"),
    "::": (socket.AF_INET6, "2001:db8::1"),
}
"""Addresses for documentation (RFC 5737, RFC 3849), which no machine has."""


def lines_of(addresses: Iterable[ListenAddress]) -> list[str]:
    """A line for each URL. A listener on all addresses has two: for this machine and for others."""
    lines = []
    for address in addresses:
        if not address.is_everywhere:
            lines.append(f"listening on {address.url}")
            continue
        lines.append(f"listening on {address.url} for this machine ({address}: all its addresses)")
        outward = outward_address(address)
        if outward is not None:
            lines.append(f"listening on {outward.url} for others")
    return lines


def outward_address(address: ListenAddress) -> ListenAddress | None:
    """The address at which other machines reach a listener on all addresses of this machine.

    It is the address of the network interface with the default route; None if there is none.
    """
    family, far = _FAR_AWAY[address.host]
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((far, 9))  # nothing is sent: the kernel only chooses a route
        host = str(probe.getsockname()[0])
        if not is_loopback(host):
            return attrs.evolve(address, host=host)
    return None


def is_public(addresses: Iterable[ListenAddress]) -> bool:
    """Whether other machines can reach one of the addresses."""
    return any(each.port is not None and not is_loopback(each.host) for each in addresses)


def what_is_private(config: HttpConfig) -> str | None:
    """A sentence that names the routes served to this machine only; None if there are none."""
    options = {"/metrics": config.metrics, "/api/v1/admin": config.admin}
    paths = [path for path, option in options.items() if option is None]
    if not paths or config.builtin_listen is not None:
        return None
    return (
        f"{' and '.join(paths)}: for this machine only; to serve them to others, set http.metrics, "
        "http.admin or http.builtin_listen"
    )
