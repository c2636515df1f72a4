"""The host that a request names: whether it is the server's own, or a name of this machine.

A page on another site can have its own name resolve to any address, also to the loopback address of
this machine (DNS rebinding). The browser then sends that name as `Host`, and lets the page read the
response. So a name proves something only if the server knows it beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import AddressValueError, IPv6Address, ip_address
from typing import Final

LOOPBACK: Final = "loopback"
"""An entry of a list of hosts: all names of this machine."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,64}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_ENTRY: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\]")

_FORWARDED: Final = ("forwarded", "via", "x-real-ip")
_FORWARDED_PREFIX: Final = "x-forwarded-"
"""Headers that proxies add: X-Forwarded-For, or -Proto alone."""


def is_loopback_name(host: str) -> bool:
    """Whether a host, without a port, can only be this machine, because no resolver is asked.

    ``localhost`` and what is below it (RFC 6761), 127.0.0.0/8 and ``::1``.
    """
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


def requested_host(lines: Sequence[str]) -> str | None:
    """Return the host of the header `Host`, in lower case and without the port.

    None if there is no such header, more than one, or one that is malformed.
    """
    match = _HOST.fullmatch(lines[0]) if len(lines) == 1 else None
    return None if match is None else _canonical(match[1])


def is_forwarded(headers: Mapping[str, object]) -> bool:
    """Whether a request has headers that proxies add."""
    return any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIX) for name in headers)


class HostPolicy:
    """The hosts that requests may name: "chat.example.org", "*.example.org", an address, or
    `LOOPBACK`. An empty list allows all.

    Raises `ValueError` for an entry that is none of these.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        self._loopback = LOOPBACK in self.allowed
        self._exact: set[str] = set()
        self._below: set[str] = set()
        for entry in self.allowed:
            if entry == LOOPBACK:
                continue
            if not _ENTRY.fullmatch(entry):
                raise ValueError(
                    f"{entry!r} is not a host: write a name without scheme and port, as "
                    f"chat.example.org or *.example.org, an address, or {LOOPBACK}"
                )
            if entry.startswith("*."):
                self._below.add(entry[2:].lower())
            else:
                self._exact.add(_canonical(entry))

    def names(self, host: str | None) -> bool:
        """Whether the list contains this host, which is from `requested_host`."""
        if host is None:
            return False
        if host in self._exact or (self._loopback and is_loopback_name(host)):
            return True
        return any(host[dot + 1 :] in self._below for dot in range(len(host)) if host[dot] == ".")

    def allows(self, host: str | None) -> bool:
        """Whether a request for this host may be answered."""
        return not self.allowed or self.names(host)


def _canonical(host: str) -> str:
    if not host.startswith("["):
        return host.lower().removesuffix(".")
    try:
        return f"[{IPv6Address(host[1:-1])}]"
    except AddressValueError:
        return host.lower()
