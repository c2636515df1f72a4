"""HTTP GET from an identity provider, with limits for size and time, without redirects."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from typing import Final
from urllib.parse import urlsplit

import trio

from trioserver.auth.loopback import is_loopback

_MAX_BYTES: Final = 1024 * 1024
"""Real documents have a few KiB."""

_CHUNK_BYTES: Final = 64 * 1024


def _user_agent() -> str:
    try:
        return f"trioserver/{version('trioserver')}"
    except PackageNotFoundError:  # run from a folder that is not installed
        return "trioserver"


_HEADERS: Final = {"User-Agent": _user_agent(), "Accept": "application/json, */*;q=0.5"}
"""Some providers' firewalls refuse urllib's own user agent."""


class FetchError(ValueError):
    """The provider's response cannot be used. The message quotes nothing of it."""

    safe_to_log = True


def check_url(what: str, url: str, *, insecure_http: bool) -> None:
    """Raise `ValueError` for a URL that must not be fetched; ``what`` names it in the message."""
    parts = urlsplit(url)
    plain = parts.scheme == "http" and (insecure_http or is_loopback(parts.hostname or ""))
    if not parts.hostname or parts.username or not (parts.scheme == "https" or plain):
        raise ValueError(
            f"{what} must be an https:// URL without a user name; http:// is accepted for this "
            "machine, and with insecure_http=True for a private network"
        )


class HTTPFetch:
    """An HTTP GET by urllib, in a worker thread that is abandoned on cancellation."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._direct = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        self._by_proxy = urllib.request.build_opener(_NoRedirect)
        # Resolving a name has no timeout, so a thread may hang: then at most these two do.
        self._threads = trio.CapacityLimiter(2)

    async def __call__(self, url: str) -> bytes:
        return await trio.to_thread.run_sync(
            self._get, url, abandon_on_cancel=True, limiter=self._threads
        )

    def _get(self, url: str) -> bytes:
        deadline = time.monotonic() + self._timeout  # urllib's is for each recv
        body = b""
        # A proxy could not reach this machine's own addresses.
        opener = self._direct if is_loopback(urlsplit(url).hostname or "") else self._by_proxy
        request = urllib.request.Request(url, headers=_HEADERS)
        try:
            response = opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            error.close()  # it is the response as well, and holds the socket
            raise FetchError(f"The response has the status {error.code}.") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from None
            raise
        with response:
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise FetchError(f"The response is larger than {_MAX_BYTES} bytes.")
                if time.monotonic() > deadline:
                    raise TimeoutError("The response was too slow.")
        return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead anywhere, and to plain HTTP; as it is, urllib raises `HTTPError`."""

    def redirect_request(self, *args: object) -> None:
        return None
