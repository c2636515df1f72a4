"""Keys from a provider's JWKS URL (RFC 7517, section 5), fetched in the background.

Verifying never waits for the provider, save when a token names a key that is not known yet.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import structlog
import trio

from protocol import TokenBucket
from trioserver.auth.keys import Key, KeySet
from trioserver.auth.loopback import is_loopback
from trioserver.tracebacks import name_of

_MAX_BYTES: Final = 1024 * 1024
"""Real sets have a few KiB."""

_CHUNK_BYTES: Final = 64 * 1024

_MAX_KEYS: Final = 64
"""Bounds the work for a token without ``kid``, which is tried with each: 64 take about 3 ms."""

_FIRST_RETRY: Final = 1.0
"""Seconds until a failed fetch is tried again. Doubled each time, up to the refresh interval."""

_ASKED_BURST: Final = 3
"""Fetches for unknown keys that are made at once. A stray token uses one up, and the users of a key
that has just been rotated in still find the next one."""

Fetch = Callable[[str], Awaitable[bytes]]

_log = structlog.get_logger(__name__)


class JWKSError(ValueError):
    """What the provider answered is no set of usable keys. Its text quotes nothing of it."""

    safe_to_log = True


class JWKS:
    """The provider's keys as they were when it last answered: they stay good while it is down.

    - ``url``: https, or http to this machine. Redirects are not followed.
    - ``refresh_interval``: seconds from one fetch to the next, more than 0.
    - ``timeout``: seconds for a fetch, and for whoever waits for one, more than 0.
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
        timeout: float = 5.0,
        cooldown: float = 3.0,
        fetch: Fetch | None = None,
    ) -> None:
        parts = urlsplit(url)
        local = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not (parts.hostname and (parts.scheme == "https" or local)) or parts.username:
            raise ValueError("The JWKS URL must be https:// (http:// on this machine), no user.")
        if not (refresh_interval > 0 and 0 < timeout < math.inf and 0 < cooldown < math.inf):
            raise ValueError("refresh_interval, timeout and cooldown are more than 0 seconds.")
        self.keys = KeySet()
        self.failing = True
        """The last fetch failed, or none has ended yet: what is missing here may exist there."""
        self._url = url
        self._place = parts._replace(query="", fragment="").geturl()  # a query may hold a secret
        self._refresh_interval = refresh_interval
        self.timeout = timeout
        self._asked_budget = TokenBucket(1.0 / cooldown, _ASKED_BURST, -math.inf)
        self._fetch = fetch or _HTTPFetch(timeout, proxies=not local)
        self._running = False
        self._fetching = False
        self._asked = trio.Event()  # set to have a fetch before its time
        self._begun_at = -math.inf  # when the last fetch that has succeeded began
        self._fetched = trio.Event()  # set when the fetch under way, or the next, has ended

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches until cancelled; started after the first attempt, whatever came of it.

        Raises `RuntimeError` where it runs already.
        """
        if self._running:
            raise RuntimeError("These keys are being fetched already: one run() is enough.")
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
        key that is not in ``keys`` is none of the provider's. Otherwise nobody can say.
        Cancelling this does not cancel the fetch.
        """
        if not self._running:
            return False
        if not self._fetching:
            self._asked.set()
        with trio.move_on_after(self.timeout):
            await self._fetched.wait()
            return not self.failing and self._begun_at >= since
        return False

    async def _cool_down(self) -> None:
        """Wait until a fetch that was asked for may be made."""
        if not self._asked_budget.take(trio.current_time()):
            await trio.sleep(self._asked_budget.wait())
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
            _log.warning("no keys from the JWKS URL", url=self._place, error=name_of(error))
            return failures + 1
        finally:
            self._fetching = False
            self._fetched.set()
            self._fetched = trio.Event()
        _log.info("keys fetched from the JWKS URL", url=self._place, keys=len(self.keys.keys))
        return 0


def parse_jwks(body: bytes) -> KeySet:
    """The usable public keys of a JWK set.

    Keys of other kinds are skipped (RFC 7517, section 5), and so are symmetric ones: a secret that
    is public is none. Raises `JWKSError` where nothing usable is left.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise JWKSError("This is not JSON.") from None
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise JWKSError("This is not a JWK set.")
    keys = []
    for jwk in jwks[:_MAX_KEYS]:
        if isinstance(jwk, dict) and jwk.get("kty") != "oct":
            with contextlib.suppress(ValueError):
                keys.append(Key.from_jwk(jwk))
    if not keys:
        raise JWKSError("The JWK set has no key that can be used here.")
    return KeySet(keys)


class _HTTPFetch:
    """An HTTP GET by urllib, in a worker thread that is abandoned on cancellation."""

    def __init__(self, timeout: float, *, proxies: bool) -> None:
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect)
        if not proxies:  # which could not reach this machine's own addresses
            self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        # Resolving a name has no timeout, so a thread may hang: then at most these two do.
        self._threads = trio.CapacityLimiter(2)

    async def __call__(self, url: str) -> bytes:
        return await trio.to_thread.run_sync(
            self._get, url, abandon_on_cancel=True, limiter=self._threads
        )

    def _get(self, url: str) -> bytes:
        deadline = time.monotonic() + self._timeout  # urllib's is for each recv
        body = b""
        try:
            response = self._opener.open(url, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            error.close()  # it is the response as well, and holds the socket
            raise JWKSError(f"The answer has the status {error.code}.") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from None
            raise
        with response:
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise JWKSError(f"The JWK set is larger than {_MAX_BYTES} bytes.")
                if time.monotonic() > deadline:
                    raise TimeoutError("The JWK set came too slowly.")
        return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead anywhere, and to plain HTTP; as it is, urllib raises `HTTPError`."""

    def redirect_request(self, *args: object) -> None:
        return None
