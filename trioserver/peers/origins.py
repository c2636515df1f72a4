"""Which web pages may connect: the Origin header, which is checked before the handshake.

A browser sends the origin of the page (RFC 6455, section 10.2; RFC 6454), so that a page of another
site cannot use the credentials that the browser has. Other clients send none, and need none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import attrs

ANY: Final = "*"
SAME_HOST: Final = "same-host"
"""Entries of a list of origins: all origins; the origins of the host that the request is for."""

MAX_ORIGIN: Final = 300
"""Maximum characters of an origin: 253 for the host, the rest for scheme and port."""

_NULL: Final = "null"
_FILE: Final = "file://"
_NO_HOST: Final = (_NULL, _FILE)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AS_PAGES_HAVE_IT: Final = {"ws": "http", "wss": "https"}
"""Schemes that some clients send in Origin, because they connect to such a URL."""

_OTHER_PORT: Final = "the port differs"

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HOST: Final = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+"
_ORIGIN: Final = re.compile(
    rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<wild>\*\.)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
)
_HOST_HEADER: Final = re.compile(rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")


@attrs.frozen
class _Origin:
    """The host is in lower case without brackets. The port is None if the scheme has none."""

    scheme: str
    host: str
    port: int | None


@attrs.frozen
class RejectedOrigin:
    """For the log, not for the client: what was sent, what is allowed, and the likely mistake."""

    origin: str
    allowed: tuple[str, ...]
    hint: str | None


class OriginPolicy:
    """An allow-list of origins: "https://example.org", "https://*.example.org", `ANY`,
    `SAME_HOST`, "null", "file://". An empty list means `SAME_HOST`. The schemes ws and wss count
    as http and https.

    Raises `ValueError` for an entry that is none of these.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        if isinstance(allowed, str):
            raise ValueError(f"origins must be a list of strings, not {allowed!r}")
        self.allowed = tuple(allowed) or (SAME_HOST,)
        self._any = ANY in self.allowed
        self._same_host = SAME_HOST in self.allowed
        self._exact: set[_Origin] = set()
        self._below: set[_Origin] = set()
        for entry in self.allowed:
            if entry not in (ANY, SAME_HOST, *_NO_HOST):
                self._add(entry)
        self._known = sorted(self._exact, key=str)

    def _add(self, entry: str) -> None:
        match = _ORIGIN.fullmatch(entry)
        origin = match and _origin(match)
        if match is None or origin is None:
            raise ValueError(f"{entry!r} is not an origin: {_advice(entry)}")
        if match["wild"] and (_is_ip(origin.host) or origin.host.startswith(".")):
            raise ValueError(f"{entry!r} is not an origin: '*.' goes before a domain")
        (self._below if match["wild"] else self._exact).add(origin)

    def rejection(
        self, origins: tuple[str, ...], hosts: tuple[str, ...], *, secure: bool
    ) -> RejectedOrigin | None:
        """Return why a request is rejected; None if it is not.

        ``origins`` and ``hosts`` are its lines of the headers `Origin` and `Host`. ``secure``: it
        came over TLS to this server, not only to a proxy.
        """
        if not origins or self._any:
            return None
        text = ", ".join(origins)
        if len(text) > MAX_ORIGIN:  # anybody may send one, and checking it takes time
            hint = f"an origin has at most {MAX_ORIGIN} characters"
            return RejectedOrigin(text[:MAX_ORIGIN] + "...", self.allowed, hint)
        if text in _NO_HOST and text in self.allowed:
            return None
        match = _ORIGIN.fullmatch(text)
        origin = None if match is None or match["wild"] else _origin(match)
        if origin is not None and self._allows(origin, hosts, secure):
            return None
        return RejectedOrigin(text, self.allowed, self._hint(text, origin, hosts))

    def _allows(self, origin: _Origin, hosts: tuple[str, ...], secure: bool) -> bool:
        if origin in self._exact:
            return True
        if self._same_host and _is_same_host(origin, hosts, secure):
            return True
        host = origin.host
        if not self._below or _is_ip(host) or host.startswith("."):
            return False
        while (dot := host.find(".")) >= 0:
            host = host[dot + 1 :]
            if _Origin(origin.scheme, host, origin.port) in self._below:
                return True
        return False

    def _hint(self, text: str, origin: _Origin | None, hosts: tuple[str, ...]) -> str | None:
        """Return what the operator has most likely overlooked."""
        if text == _NULL:
            return (
                "the page has no origin: a file, or a sandboxed frame; serve it over HTTP, or "
                "allow 'null', which is every such page"
            )
        if text == _FILE:
            return "the page is a file; serve it over HTTP, or allow 'file://', which is every file"
        if origin is None:
            slash = _has_only_a_slash_too_many(text)
            return "an origin has no slash at its end" if slash else "this is not an origin"
        known = self._known
        host = _host_header(hosts, origin.scheme) if self._same_host else None
        if host is not None:
            known = [*known, _Origin(origin.scheme, *host)]
            if origin == known[-1]:
                return "the page was loaded over http, but the connection to this server uses TLS"
        found = [
            (hint, other) for other in known if (hint := _difference(origin, other)) is not None
        ]
        if found:  # another port may well be another program; another name for this machine is not
            hint, other = min(found, key=lambda pair: pair[0] == _OTHER_PORT)
            return f"{hint}: {_text(other)} is allowed, {_text(origin)} is another origin"
        for parent in self._below:
            if (parent.scheme, parent.host, parent.port) == (
                origin.scheme,
                origin.host,
                origin.port,
            ):
                return f"'*.{parent.host}' allows the hosts below {parent.host}, not itself"
        return None


def _difference(origin: _Origin, other: _Origin) -> str | None:
    """Return how two origins differ, if it is in one thing that is easily overlooked."""
    same_scheme, same_port = origin.scheme == other.scheme, origin.port == other.port
    if origin.host == other.host:
        if same_scheme:
            return _OTHER_PORT
        defaults = (_DEFAULT_PORTS.get(origin.scheme), _DEFAULT_PORTS.get(other.scheme))
        return "the scheme differs" if same_port or (origin.port, other.port) == defaults else None
    if same_scheme and same_port:
        if origin.host in _LOOPBACK and other.host in _LOOPBACK:
            return "localhost and its addresses are different origins"
        if origin.host.removeprefix("www.") == other.host.removeprefix("www."):
            return "with and without 'www.' are different origins"
    return None


def _origin(match: re.Match[str]) -> _Origin | None:
    scheme = match["scheme"].lower()
    scheme = _AS_PAGES_HAVE_IT.get(scheme, scheme)
    host = _plain_host(match["host"])
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS.get(scheme)
    if host is None or (port is not None and not 0 < port < 65536):
        return None
    return _Origin(scheme, host, port)


def _plain_host(host: str) -> str | None:
    """Return a host in lower case; an IPv6 address in its canonical form, without brackets."""
    if not host.startswith("["):
        return host.lower()
    try:
        return str(IPv6Address(host[1:-1]))
    except AddressValueError:
        return None


def _is_ip(host: str) -> bool:
    """Whether a host is an IP address: as in URLs, what ends in a number is an IPv4 address."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _is_same_host(origin: _Origin, hosts: tuple[str, ...], secure: bool) -> bool:
    """Whether the page is of the host that the request is for.

    If this server terminates TLS, the scheme must be https. If a proxy does, the client's scheme is
    not known, and both are allowed.
    """
    if origin.scheme not in (("https",) if secure else ("http", "https")):
        return False
    return _host_header(hosts, origin.scheme) == (origin.host, origin.port)


def _host_header(hosts: tuple[str, ...], scheme: str) -> tuple[str, int | None] | None:
    if len(hosts) != 1 or len(hosts[0]) > MAX_ORIGIN:
        return None
    match = _HOST_HEADER.fullmatch(hosts[0])
    host = None if match is None else _plain_host(match["host"])
    if match is None or host is None:
        return None
    return host, int(match["port"]) if match["port"] else _DEFAULT_PORTS.get(scheme)


def _text(origin: _Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    default = _DEFAULT_PORTS.get(origin.scheme)
    return f"{origin.scheme}://{host}" + (f":{origin.port}" if origin.port != default else "")


def _has_only_a_slash_too_many(text: str) -> bool:
    return text.endswith("/") and _ORIGIN.fullmatch(text.rstrip("/")) is not None


def _advice(entry: str) -> str:
    if _has_only_a_slash_too_many(entry):
        return "leave out the slash at the end"
    if "://" not in entry:
        return f"write a scheme and a host, as https://example.org, or {SAME_HOST}, or {ANY}"
    if not entry.isascii():
        return "write the host in ASCII, as browsers send it (xn--...)"
    return "write a scheme, a host and, optionally, a port, as https://example.org:8443"
