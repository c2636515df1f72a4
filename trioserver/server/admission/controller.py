"""Admission: which connections and requests are accepted, and under which address they count.

Until the head of a request has been read, only the peer's own address is known. After that, the
client behind a proxy is known too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import structlog
import trio

from trioserver.config import Config
from trioserver.logs.lines import may_log
from trioserver.peers.addresses import UNIX, host_of, parse_ip
from trioserver.server.admission.address_rate_limiter import AddressRateLimiter
from trioserver.server.admission.connection_limiter import Cap, ConnectionLimiter
from trioserver.server.admission.rejections import AdmissionRejected, RejectionReporter
from trioserver.server.admission.request_policy import RequestPolicy
from trioserver.server.admission.slot import Slot
from trioserver.telemetry.observer import AddressBan, AuthAttempt, Eviction, Observer
from trioserver.websocket.handshake import Head

log: Final = structlog.get_logger("trioserver")

_PROXY_HEADERS: Final = ("x-forwarded-for", "forwarded")


class AdmissionController(Observer):
    """Gives slots to connections, and limits what each address may do.

    It is an observer because authentications that fail, or succeed, change what an address may do.

    - ``limiter``: all connections. ``addresses``: what is known of addresses.
    - ``policy``: what the configuration says about requests.
    - ``rejections``: logs and counts what is rejected.
    """

    def __init__(self, config: Config, observer: Observer) -> None:
        self.limiter = ConnectionLimiter(
            config.limits,
            http_connections=config.http.max_connections,
            on_eviction=self._on_eviction,
        )
        self.addresses = AddressRateLimiter(config.limits, on_ban=self._on_ban)
        self.policy = RequestPolicy(config)
        self.rejections = RejectionReporter(observer)
        self._observer = observer
        self._has_warned = False

    def reconfigure(self, config: Config) -> None:
        """Use other options from now on. Bans stay; the rates of addresses start again."""
        self.addresses.reconfigure(config.limits)
        self.limiter.reconfigure(config.limits)
        self.policy = RequestPolicy(config)

    # -------------------------------------------------------------------------- connections

    def enter(self, evict: Callable[[], None], peer: str, *, known: bool = True) -> Slot | None:
        """Take a slot; return None if the stream is to be dropped, which has been reported.

        ``known`` is False for a proxy that has yet to name the client.
        """
        now = trio.current_time()
        key = self.policy.key_of(peer) if known else ""
        if not self._should_respond(peer, key, now):
            return None
        slot = self.limiter.enter(evict, key, now)
        if slot is None:
            self.rejections.dropped(peer, "server_busy", "The server is full.")
        return slot

    def announce(self, slot: Slot, peer: str) -> bool:
        """Count the slot under the client that a PROXY header has named.

        Return False if the stream is to be dropped, which has been reported.
        """
        now, key = trio.current_time(), self.policy.key_of(peer)
        if not self._should_respond(peer, key, now):
            return False
        slot.identify(key, now)
        return True

    def drop_bad_proxy(self, peer: str, reason: str) -> None:
        """Report a connection that does not begin with a PROXY header, as its listener expects."""
        if may_log("proxy_protocol_failed", peer):
            log.warning("proxy_protocol_failed", remote=peer, reason=reason)
        self.rejections.dropped(peer, "proxy_protocol", reason)

    def _should_respond(self, peer: str, key: str, now: float) -> bool:
        if not self.addresses.banned_for(key, now) or self.addresses.should_respond(key, now):
            return True
        self.rejections.dropped(peer, "address_banned", "The address is banned.")
        return False

    # -------------------------------------------------------------------------- requests

    def identify(self, slot: Slot, peer: str, head: Head) -> str:
        """Return the client's address, and count the slot under it."""
        if not self.policy.is_trusted_proxy(peer):
            self._warn_of_untrusted_proxy(peer, head)
            return peer
        client = self.policy.client_of(peer, head)
        slot.identify(self.policy.key_of(client), trio.current_time())
        return client

    def check(self, remote: str, head: Head) -> None:
        """Count a request, and raise `AdmissionRejected` if it is one too many.

        ``remote`` is the client's address. It also is if the address is banned, or if the request
        is for a host that is not the server's.
        """
        now, key = trio.current_time(), self.policy.key_of(remote)
        seconds = self.addresses.banned_for(key, now)
        if seconds > 0:
            raise _too_many(
                "address_banned", "Too many invalid tokens were sent from this address.", seconds
            )
        if head.is_upgrade:
            seconds = self.addresses.charge_handshake(key, now)
            if seconds > 0:
                raise _too_many(
                    "handshake_rate", "Too many handshakes were sent from this address.", seconds
                )
        else:
            seconds = self.addresses.charge_request(key, now)
            if seconds > 0:
                raise _too_many(
                    "request_rate", "Too many requests were sent from this address.", seconds
                )
        self.policy.check_host(head)

    def _warn_of_untrusted_proxy(self, peer: str, head: Head) -> None:
        """Warn once if a peer in a private network, probably a proxy, is not trusted."""
        forwards = any(name in head.headers for name in _PROXY_HEADERS)
        if forwards and not self._has_warned and _is_private(peer):
            self._has_warned = True
            log.warning(
                "proxy_not_trusted",
                remote=peer,
                hint="it sends X-Forwarded-For or Forwarded; if it is your proxy, put its network "
                "into proxy.trusted, or all its clients count as one address",
            )

    # -------------------------------------------------------------------------- events

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        """Count an invalid token against its address.

        An expired one is not counted, because it is a laptop that slept. A failure of the server
        is not the client's fault.
        """
        if attempt.connection is None and attempt.method != "bearer":
            return
        key = self.policy.key_of(attempt.remote)
        if attempt.code == "token_invalid":
            self.addresses.record_invalid_token(key, trio.current_time())
        elif attempt.code is None:
            self.addresses.record_authenticated(key)

    def _on_ban(self, key: str, seconds: float) -> None:
        if may_log("address_banned", key):
            log.warning("address_banned", remote=key, seconds=seconds)
        self._observer.on_address_banned(AddressBan(remote=key, duration=seconds))

    def _on_eviction(self, slot: Slot, cap: Cap) -> None:
        age = trio.current_time() - slot.since
        self._observer.on_evicted(Eviction(remote=slot.key, cap=cap, age=age))


def _too_many(code: str, reason: str, seconds: float) -> AdmissionRejected:
    after = str(math.ceil(seconds))
    return AdmissionRejected(
        code, 429, f"{reason} Try again in {after} s.", [("Retry-After", after)]
    )


def _is_private(peer: str) -> bool:
    host = host_of(peer)
    address = parse_ip(host)
    return host == UNIX or (address is not None and address.is_private)
