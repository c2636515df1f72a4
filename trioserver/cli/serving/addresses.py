"""Where a server can be reached, as it is told at the start."""

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
"""Addresses of nobody, for documentation (RFC 5737, RFC 3849)."""


def lines_of(addresses: Iterable[ListenAddress]) -> list[str]:
    """A line for each URL: of all addresses of this machine, the one for itself and for others."""
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
    """Where others reach a listener that is on all addresses of this machine: the address that it
    has in the network by which it reaches others. None where there is no network."""
    family, far = _FAR_AWAY[address.host]
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((far, 9))  # nothing is sent: the kernel only chooses a route
        host = str(probe.getsockname()[0])
        if not is_loopback(host):
            return attrs.evolve(address, host=host)
    return None


def is_public(addresses: Iterable[ListenAddress]) -> bool:
    """Whether others than this machine reach one of them."""
    return any(each.port is not None and not is_loopback(each.host) for each in addresses)


def what_is_private(config: HttpConfig) -> str | None:
    """A sentence on what answers this machine only; None where that is nothing."""
    options = {"/metrics": config.metrics, "/api/v1/admin": config.admin}
    paths = [path for path, option in options.items() if option is None]
    if not paths or config.builtin_listen is not None:
        return None
    return (
        f"{' and '.join(paths)}: for this machine only; http.metrics, http.admin or "
        "http.builtin_listen open them"
    )
