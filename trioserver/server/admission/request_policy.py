"""Which requests a server accepts, by its configuration: trusted proxies, hosts, origins."""

from __future__ import annotations

from typing import Final

from trioserver.config import Config
from trioserver.peers.addresses import UNIX, Networks, address_key, host_of
from trioserver.peers.forwarded import client_of
from trioserver.peers.hosts import HostPolicy, is_forwarded, is_loopback_name, requested_host
from trioserver.peers.origins import SAME_HOST, OriginPolicy
from trioserver.server.admission.rejections import AdmissionRejected
from trioserver.websocket.handshake import Head

_PROBES: Final = ("/healthz", "/readyz")
"""Load balancers request these by any host name. The responses tell nothing about anybody."""

_REBINDING_HINT: Final = (
    "over loopback only localhost, 127.0.0.1 and [::1] are the same host; behind a proxy on this "
    "machine put its address into proxy.trusted, or the name into origins.hosts"
)


class RequestPolicy:
    """Answers for one configuration. ``peer`` is an address of a socket, or from a PROXY header."""

    def __init__(self, config: Config) -> None:
        self._header = config.proxy.header
        self._trusted = Networks(config.proxy.trusted)
        self._origins = OriginPolicy(config.origins.allow)
        self._hosts = HostPolicy(config.origins.hosts)

    def is_trusted_proxy(self, peer: str) -> bool:
        """Whether the server believes this peer for whom it speaks."""
        return peer in self._trusted

    def key_of(self, peer: str) -> str:
        """Return what a peer is counted under; "" for a proxy, which would count for everybody."""
        return "" if peer in self._trusted else address_key(peer)

    def client_of(self, peer: str, head: Head) -> str:
        """Return the address of the client that ``peer``, a trusted proxy, speaks for."""
        if self._header == "none":
            return peer
        return client_of(peer, self._header, head.headers.get(self._header, ()), self._trusted)

    def check_host(self, head: Head) -> None:
        """Raise `AdmissionRejected` unless the request names one of ``origins.hosts``."""
        if not self._hosts.allowed or head.path in _PROBES:
            return
        if not self._hosts.allows(requested_host(head.headers.get("host", ()))):
            raise AdmissionRejected(
                "host", 421, "The server does not answer to this host name (option origins.hosts)."
            )

    def check_origin(
        self, peer: str, head: Head, policy: OriginPolicy | None, *, secure: bool
    ) -> None:
        """Raise `AdmissionRejected` unless pages of the request's origin may connect.

        ``policy`` is the route's; None: ``origins.allow`` decides.
        """
        hosts = head.headers.get("host", ())
        if not self._is_same_host_credible(peer, hosts):
            hosts = ()
        origins = head.headers.get("origin", ())
        rejected = (policy or self._origins).rejection(origins, hosts, secure=secure)
        if rejected is not None:
            details = {"origin": rejected.origin, "allowed": list(rejected.allowed)}
            if not hosts and SAME_HOST in rejected.allowed:
                details["hint"] = _REBINDING_HINT
            elif rejected.hint is not None:
                details["hint"] = rejected.hint
            raise AdmissionRejected(
                "origin",
                403,
                "Pages of this origin may not connect here.",
                event="websocket_rejected_invalid_origin",
                details=details,
            )

    def _is_same_host_credible(self, peer: str, hosts: tuple[str, ...]) -> bool:
        """Whether the header `Host` can be the server's own name.

        A page in a browser on this machine may have its own name resolve to 127.0.0.1. A trusted
        proxy has looked at the header.
        """
        if peer in self._trusted or not is_loopback_name(host_of(peer)):
            return True
        host = requested_host(hosts)
        return host is not None and (is_loopback_name(host) or self._hosts.names(host))

    def is_local(self, peer: str, remote: str, head: Head) -> bool:
        """Whether a program on this machine sent the request for itself.

        ``remote`` is the client's address. A proxy on this machine sends requests of others. If it
        is trusted, ``remote`` says whose. Any other proxy usually shows by its headers, or by the
        `Host` that it passes on.
        """
        if peer in self._trusted:
            if remote == peer:
                return False
        elif _is_proxied(head):
            return False
        lines = head.headers.get("host", ())
        host = requested_host(lines)
        if lines and (host is None or not is_loopback_name(host)):
            return False
        return remote == UNIX or is_loopback_name(host_of(remote))


def _is_proxied(head: Head) -> bool:
    """Whether a proxy has passed the request on: it has headers of a proxy, or HTTP/1.0, which
    nginx speaks by default, or asks for an upgrade to nothing, as some proxies always do."""
    upgrade = "upgrade" in map(str.lower, head.tokens("connection"))
    upgrades_to_nothing = upgrade and "upgrade" not in head.headers
    return is_forwarded(head.headers) or head.http_version == "1.0" or upgrades_to_nothing
