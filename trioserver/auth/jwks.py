"""Keys from a provider's JWKS URL (RFC 7517, section 5), fetched in the background.

Verification waits for the provider only if a token names a key that is not known yet.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
import trio

from protocol import TokenBucket
from trioserver.auth.discovery import Discovery
from trioserver.auth.fetching import FetchError, HTTPFetch, check_url
from trioserver.auth.keys import Key, KeySet
from trioserver.logs.tracebacks import name_of

_TIMEOUT: Final = 5.0

_MAX_KEYS: Final = 64
"""Bounds the work for a token without ``kid``, which is tried with each: 64 take about 3 ms."""

_FIRST_RETRY: Final = 1.0
"""Seconds until a failed fetch is tried again. Doubled each time, up to the refresh interval."""

_ASKED_BURST: Final = 3
"""Fetches for unknown keys that are made at once. A stray token uses one up, and the users of a key
that has just been rotated in still find the next one."""

Fetch = Callable[[str], Awaitable[bytes]]

_log = structlog.get_logger("trioserver")


class JWKSError(FetchError):
    """The provider's response contains no usable keys. The message quotes nothing of it."""


_NOBODY_FETCHES: Final = (
    "JWTAuth.run() is not running. The server runs it if the JWTAuth is itself the authenticator "
    "of an application or a route. An authenticator that wraps one is a Component with its run()."
)


class JWKS:
    """A provider's keys, fetched in the background. They stay in use while the provider is down.

    - ``url``: https, or http to this machine. Redirects are not followed.
    - ``insecure_http``: also accept ``http://`` to other machines. For private networks only,
      because an attacker on the network can then replace the keys.
    - ``refresh_interval``: seconds from one fetch to the next, more than 0.
    - ``timeout``: seconds for a fetch, and for a caller that waits for one, more than 0.
    - ``cooldown``: seconds between two fetches for keys that are not known, more than 0; three may
      come at once. Anybody can send a token that names an unknown key, so this bounds what the
      provider is asked. Whoever comes meanwhile waits for the next fetch.
    - ``fetch``: gets the body from the URL, raises any `Exception` where it cannot (its text is
      not logged), and is cancelled after ``timeout``; None is an HTTP GET in a worker thread.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_interval: float = 300.0,
        timeout: float = _TIMEOUT,
        cooldown: float = 3.0,
        insecure_http: bool = False,
        fetch: Fetch | None = None,
    ) -> None:
        check_url("The JWKS URL", url, insecure_http=insecure_http)
        if not (refresh_interval > 0 and 0 < timeout < math.inf and 0 < cooldown < math.inf):
            raise ValueError(
                f"refresh_interval is {refresh_interval!r}, timeout is {timeout!r}, cooldown is "
                f"{cooldown!r}; each must be more than 0 s"
            )
        self.keys = KeySet()
        self.failing = True
        """The last fetch failed, or none has ended yet: what is missing here may exist there."""
        self._url = url
        # A query may hold a secret.
        self._place = urlsplit(url)._replace(query="", fragment="").geturl()
        self._refresh_interval = refresh_interval
        self.timeout = timeout
        self._asked_budget = TokenBucket(1.0 / cooldown, _ASKED_BURST, -math.inf)
        self._fetch = fetch or HTTPFetch(timeout)
        self._running = False
        self._has_complained = False
        self._fetching = False
        self._asked = trio.Event()  # set to have a fetch before its time
        self._begun_at = -math.inf  # when the last fetch that has succeeded began
        self._fetched = trio.Event()  # set when the fetch under way, or the next, has ended

    @classmethod
    def from_issuer(cls, issuer: str, *, insecure_http: bool = False, **options: Any) -> JWKS:
        """The keys of an OpenID Connect provider, found by its ``issuer`` URL.

        The URL of the keys is looked up again for each fetch. ``options`` are those of `JWKS`.
        """
        check_url("The issuer", issuer, insecure_http=insecure_http)
        find = Discovery(issuer, options.get("timeout", _TIMEOUT), insecure_http=insecure_http)
        return cls(find.url, insecure_http=insecure_http, **{"fetch": find, **options})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches until cancelled; started after the first attempt, whatever came of it.

        Raises `RuntimeError` where it runs already.
        """
        if self._running:
            raise RuntimeError("this JWKS is running already: call run() once")
        self._running = True
        try:
            failures = await self._attempt(0)
            task_status.started()
            while True:
                with trio.move_on_after(self._pause(failures)):
                    await self._asked.wait()
                    await self._cool_down()
                failures = await self._attempt(failures)
        finally:
            self._running = False

    async def refresh(self, since: float) -> bool:
        """Wait, up to ``timeout``, until a fetch ends: the one under way, else the next, which is
        asked for now and shared by all who wait.

        Return True if it began at ``since``, by Trio's clock, or later, and has succeeded: then a
        key that is not in ``keys`` is not a key of the provider. False leaves that unknown.
        Cancelling this does not cancel the fetch.
        """
        if not self._running:
            self._complain()
            return False
        if not self._fetching:
            self._asked.set()
        with trio.move_on_after(self.timeout):
            await self._fetched.wait()
            return not self.failing and self._begun_at >= since
        return False

    def _complain(self) -> None:
        """Say once that tokens are refused because no keys are fetched."""
        if not self._has_complained:
            self._has_complained = True
            _log.error("jwks_fetcher_not_running", url=self._place, hint=_NOBODY_FETCHES)

    async def _cool_down(self) -> None:
        """Wait until a fetch that was asked for may be made."""
        if not self._asked_budget.take(trio.current_time()):
            await trio.sleep(self._asked_budget.seconds_until())
            self._asked_budget.take(trio.current_time())

    def _pause(self, failures: int) -> float:
        if not failures:
            return self._refresh_interval
        return min(self._refresh_interval, _FIRST_RETRY * 2.0 ** min(failures - 1, 30))

    async def _attempt(self, failures: int) -> int:
        """Fetches once. Returns how many attempts in a row have failed, this one included."""
        self._asked, self._fetching = trio.Event(), True
        begun_at = trio.current_time()
        try:
            with trio.fail_after(self.timeout):
                body = await self._fetch(self._url)
            self.keys = parse_jwks(body)
            self.failing, self._begun_at = False, begun_at
        except Exception as error:  # down, slow, broken: whatever it is, the keys at hand stay
            self.failing = True
            _log.warning("jwks_fetch_failed", url=self._place, error=name_of(error))
            return failures + 1
        finally:
            self._fetching = False
            self._fetched.set()
            self._fetched = trio.Event()
        _log.info("jwks_fetched", url=self._place, keys=len(self.keys.keys))
        return 0


def parse_jwks(body: bytes) -> KeySet:
    """The usable public keys of a JWK set.

    Keys of other kinds are skipped (RFC 7517, section 5), and so are symmetric ones: a secret that
    is public protects nothing. Raises `JWKSError` if no usable key is left.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise JWKSError("The response is not JSON.") from None
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise JWKSError("The response is not a JWK set.")
    keys = []
    for jwk in jwks[:_MAX_KEYS]:
        if isinstance(jwk, dict) and jwk.get("kty") != "oct":
            with contextlib.suppress(ValueError):
                keys.append(Key.from_jwk(jwk))
    if not keys:
        raise JWKSError("The JWK set has no public key of a supported type.")
    return KeySet(keys)
