"""Which addresses only this machine can reach."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address (without port or brackets) means this machine itself.

    127.0.0.0/8, ``::1`` and the name ``localhost`` do; any other name could resolve to anything.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
