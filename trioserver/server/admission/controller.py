"""Who is let in, and as whom: addresses, caps, rates, blocks, origins.

Before the head of a request only the peer's own address is known; after it, who is behind a proxy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

import structlog
import trio

from trioserver.app.route import Route
from trioserver.auth.fingerprint import fingerprint
from trioserver.config import Config
from trioserver.logs.lines import may_log
from trioserver.logs.paths import masked_path
from trioserver.logs.throttle import LogThrottle
from trioserver.peers.addresses import UNIX, Networks, address_key, host_of, plain
from trioserver.peers.forwarded import client_of
from trioserver.peers.hosts import HostPolicy, is_forwarded, is_loopback_name, requested_host
from trioserver.peers.origins import SAME_HOST, OriginPolicy
from trioserver.server.admission.address_rate_limiter import AddressRateLimiter
from trioserver.server.admission.connection_limiter import Cap, ConnectionLimiter, Slot
from trioserver.telemetry.observer import (
    AddressBan,
    AuthAttempt,
    Eviction,
    Observer,
    Rejection,
)
from trioserver.websocket.handshake import Head, RequestRejected

log: Final = structlog.get_logger("trioserver")

_DROPS_PERIOD: Final = 10.0  # seconds between two lines about connections that were dropped

_PROBES: Final = ("/healthz", "/readyz")
"""Load balancers ask for these by whatever name, and learn nothing of anybody."""

_REBINDING: Final = (
    "over loopback only localhost, 127.0.0.1 and [::1] are the same host; behind a proxy on this "
    "machine put its address into proxy.trusted, or the name into origins.hosts"
)

_SAY_WHO: Final = ("x-forwarded-for", "forwarded")


class AdmissionRejected(RequestRejected):
    """A refusal that is no fault of the request's form. ``code`` is as of `Rejection`."""

    def __init__(
        self,
        code: str,
        status: int,
        reason: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        event: str = "request_rejected",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, reason, headers)
        self.code = code
        self.event = event
        self.details = details or {}


class AdmissionController(Observer):
    """Keeps what limits need to know, and learns from how authentications end."""

    def __init__(self, config: Config, observer: Observer) -> None:
        self._observer = observer
        self._drops = LogThrottle(_DROPS_PERIOD)
        self._has_warned = False
        self.addresses = AddressRateLimiter(config.limits, on_block=self._on_block)
        self.limiter = ConnectionLimiter(
            config.limits,
            http_connections=config.http.max_connections,
            on_eviction=self._on_eviction,
        )
        self._set_policies(config)

    def reconfigure(self, config: Config) -> None:
        """Other options from now on. Blocks stay; how often addresses connect is counted anew."""
        self.addresses.reconfigure(config.limits)
        self.limiter.reconfigure(config.limits)
        self._set_policies(config)

    def _set_policies(self, config: Config) -> None:
        self._header = config.proxy.header
        self._trusted = Networks(config.proxy.trusted)
        self._origins = OriginPolicy(config.origins.allow)
        self._hosts = HostPolicy(config.origins.hosts)

    # -------------------------------------------------------------------------- coming in

    def enter(self, evict: Callable[[], None], peer: str, *, known: bool = True) -> Slot | None:
        """Take a slot; None where the stream is to be dropped, which has been counted.

        ``known``: ``peer`` is who it is, and not a proxy that has yet to say so.
        """
        now = trio.current_time()
        key = self._key(peer) if known else ""
        if not self._is_worth_an_answer(key, now):
            self._drop(peer, "address_banned", "The address is blocked.")
            return None
        slot = self.limiter.enter(evict, key, now)
        if slot is None:
            self._drop(peer, "server_busy", "The server is full.")
        return slot

    def may_announce(self, peer: str) -> bool:
        """Whether this peer's word is taken for who it speaks for."""
        return peer in self._trusted

    def announce(self, slot: Slot, peer: str) -> bool:
        """A proxy has said who it is, ahead of all else; False: to be dropped, and counted."""
        now = trio.current_time()
        key = self._key(peer)
        if not self._is_worth_an_answer(key, now):
            self._drop(peer, "address_banned", "The address is blocked.")
            return False
        slot.identify(key, now)
        return True

    def identify(self, slot: Slot, peer: str, head: Head) -> str:
        """Who has sent this head: ``peer``, or whom it speaks for where it is a trusted proxy."""
        if peer not in self._trusted:
            self._warn_of_unheard_proxy(peer, head)
            return peer
        if self._header != "none":
            lines = head.headers.get(self._header, ())
            peer = client_of(peer, self._header, lines, self._trusted)
            slot.identify(self._key(peer), trio.current_time())
        return peer

    def check(self, peer: str, head: Head) -> None:
        """Whether the address may ask for anything, and how often, on both sides of the port.

        Raises `AdmissionRejected`.
        """
        now, key = trio.current_time(), self._key(peer)
        seconds = self.addresses.blocked_for(key, now)
        if seconds > 0:
            raise _too_many("address_banned", "Too many forged tokens came from here.", seconds)
        if head.is_upgrade:
            seconds = self.addresses.handshake(key, now)
            if seconds > 0:
                raise _too_many("handshake_rate", "Too many handshakes came from here.", seconds)
        else:
            seconds = self.addresses.request(key, now)
            if seconds > 0:
                raise _too_many("request_rate", "Too many requests came from here.", seconds)

    def check_host(self, head: Head) -> None:
        """Raise `AdmissionRejected` unless the request names a host of the server's."""
        if not self._hosts.allowed or head.path in _PROBES:
            return
        if not self._hosts.allows(requested_host(head.headers.get("host", ()))):
            raise AdmissionRejected(
                "host", 421, "The server is not known by this name (origins.hosts)."
            )

    def is_local(self, peer: str, remote: str, head: Head) -> bool:
        """Whether a program on this machine asks, for this machine, and not for somebody else.

        ``peer`` is the socket's, ``remote`` as of `identify`. A proxy on this machine speaks for
        others: one that is trusted is believed that they are on it too, any other most often
        gives itself away, by its headers or by the `Host` that it passes on.
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

    def check_origin(self, peer: str, route: Route, head: Head, *, secure: bool) -> None:
        """Raise `AdmissionRejected` unless pages of this origin may connect."""
        policy = route.origins or self._origins
        headers = head.headers
        hosts = headers.get("host", ())
        if not self._is_same_host_credible(peer, hosts):
            hosts = ()
        rejected = policy.judge(headers.get("origin", ()), hosts, secure=secure)
        if rejected is not None:
            details = {"origin": rejected.origin, "allowed": list(rejected.allowed)}
            if not hosts and SAME_HOST in rejected.allowed:
                details["hint"] = _REBINDING
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
        """Whether the `Host` can be the server's. A page that a browser on this machine shows may
        have its own name resolve to 127.0.0.1; a trusted proxy has looked at it."""
        if peer in self._trusted or not is_loopback_name(host_of(peer)):
            return True
        host = requested_host(hosts)
        return host is not None and (is_loopback_name(host) or self._hosts.names(host))

    # -------------------------------------------------------------------------- being refused

    def refuse(self, bad: RequestRejected, remote: str, head: Head | None) -> None:
        """Log and count a refusal that is going to be answered."""
        path = "" if head is None else masked_path(head.path)
        code, event, details = "bad_request", "request_rejected", {}
        if isinstance(bad, AdmissionRejected):
            code, event, details = bad.code, bad.event, dict(bad.details)
        if may_log(event, remote):
            level = log.info if event == "request_rejected" else log.warning
            level(
                event,
                remote=remote,
                path=path,
                status=bad.status,
                reason=bad.reason,
                token=None if head is None else fingerprint(head.query.get("token")),
                **details,
            )
        self._observer.on_request_rejected(
            Rejection(
                remote=remote,
                path=path,
                status=bad.status,
                reason=bad.reason,
                code=code,
                origin=details.get("origin"),
            )
        )

    def drop_bad_proxy(self, peer: str, reason: str) -> None:
        """Log and count a connection that did not begin as the listener wants it."""
        if may_log("proxy_protocol_failed", peer):
            log.warning("proxy_protocol_failed", remote=peer, reason=reason)
        self._drop(peer, "proxy_protocol", reason)

    def _drop(self, peer: str, code: str, reason: str) -> None:
        """Few lines in the log: who is dropped unheard may come thousands of times a second."""
        suppressed = self._drops.allow(trio.current_time())
        if suppressed is not None:
            log.warning("connections_dropped", reason=code, suppressed=suppressed)
        self._observer.on_request_rejected(
            Rejection(remote=peer, path="", status=0, reason=reason, code=code)
        )

    def _is_worth_an_answer(self, key: str, now: float) -> bool:
        return not self.addresses.blocked_for(key, now) or self.addresses.may_be_told(key, now)

    # -------------------------------------------------------------------------- learning

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        """Only an invalid token counts against an address: an expired one is a laptop that slept,
        and a failure of the server is not the client's fault."""
        if attempt.connection is None and attempt.method != "bearer":
            return
        key = self._key(attempt.remote)
        if attempt.code == "token_invalid":
            self.addresses.forged(key, trio.current_time())
        elif attempt.code is None:
            self.addresses.authenticated(key)

    def _key(self, peer: str) -> str:
        """A proxy's own address is nobody's: what is counted there would count for everybody."""
        return "" if peer in self._trusted else address_key(peer)

    def _on_block(self, key: str, seconds: float) -> None:
        if may_log("address_banned", key):
            log.warning("address_banned", remote=key, seconds=seconds)
        self._observer.on_address_banned(AddressBan(remote=key, duration=seconds))

    def _on_eviction(self, slot: Slot, cap: Cap) -> None:
        age = trio.current_time() - slot.since
        self._observer.on_evicted(Eviction(remote=slot.key, cap=cap, age=age))

    def _warn_of_unheard_proxy(self, peer: str, head: Head) -> None:
        """Once, where somebody nearby, most likely a proxy of the operator's, is not trusted."""
        says = any(name in head.headers for name in _SAY_WHO)
        if says and not self._has_warned and _is_nearby(peer):
            self._has_warned = True
            log.warning(
                "proxy_not_trusted",
                remote=peer,
                hint="it sends X-Forwarded-For or Forwarded; if it is your proxy, put its network "
                "into proxy.trusted, or all its clients count as one address",
            )


def _too_many(code: str, reason: str, seconds: float) -> AdmissionRejected:
    after = str(math.ceil(seconds))
    return AdmissionRejected(
        code, 429, f"{reason} Try again in {after} s.", [("Retry-After", after)]
    )


def _is_proxied(head: Head) -> bool:
    """Whether a proxy gives itself away: by headers of its own, by HTTP/1.0, which nginx speaks
    if it is not told otherwise, or by an upgrade that it always asks for."""
    upgrade = "upgrade" in map(str.lower, head.tokens("connection"))
    has_none = upgrade and "upgrade" not in head.headers
    return is_forwarded(head.headers) or head.http_version == "1.0" or has_none


def _is_nearby(peer: str) -> bool:
    host = host_of(plain(peer))
    if host == UNIX:
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False
