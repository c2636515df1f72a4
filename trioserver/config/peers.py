"""Web pages, host names and proxies: who may connect, and from which address a request comes."""

from __future__ import annotations

import attrs

from trioserver.config.fields import choice, texts
from trioserver.peers.addresses import Networks
from trioserver.peers.hosts import HostPolicy
from trioserver.peers.origins import OriginPolicy


@attrs.frozen(kw_only=True)
class OriginConfig:
    """Which web pages may connect, and which host names the server answers to. A client that sends
    no Origin header is not a web page, and `allow` does not apply to it."""

    allow: tuple[str, ...] = texts(
        "Origins whose pages may connect: `https://example.org`, `https://*.example.org` for all "
        "its subdomains, `same-host` for the host that the client connects to, or `*` for any "
        "page. If empty, `same-host` applies.",
        OriginPolicy,
        "a list of origins",
    )

    hosts: tuple[str, ...] = texts(
        "Host names that the server answers to: `chat.example.org`, `*.example.org`, an IP "
        "address, or `loopback` for localhost and its addresses. A request for any other name gets "
        "HTTP 421, except health checks. If empty, all names are answered, but a page on a "
        "loopback connection is `same-host` only under a loopback name.",
        HostPolicy,
        "a list of hosts",
    )


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """Reverse proxies in front of the server, whose headers name the client's address."""

    trusted: tuple[str, ...] = texts(
        "Addresses or networks of the proxies, such as `10.0.0.0/8`; `unix` for proxies that "
        "connect through a Unix socket. If empty, no forwarding header is trusted, and the "
        "client's address is the one that connects.",
        Networks,
        "a list of networks",
    )
    header: str = choice(
        "x-forwarded-for",
        ("x-forwarded-for", "forwarded", "none"),
        "Header from which the client's address is read, if a trusted proxy sent it: "
        "`x-forwarded-for`, `forwarded` (RFC 7239), or `none` to ignore both. Every trusted proxy "
        "must set or remove this header, otherwise a client can forge its address.",
    )
