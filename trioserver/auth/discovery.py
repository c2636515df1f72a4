"""Finds the keys of a provider from its issuer URL: OpenID Connect Discovery 1.0, section 4."""

from __future__ import annotations

import json
from typing import Any

from trioserver.auth.fetching import FetchError, HTTPFetch, check_url


class Discovery:
    """Fetches a provider's configuration from ``url``, and then the JWK set that it names.

    ``timeout``: seconds for each of the two requests.
    """

    def __init__(self, issuer: str, timeout: float, *, insecure_http: bool) -> None:
        self._issuer = issuer.rstrip("/")
        self._insecure_http = insecure_http
        self._fetch = HTTPFetch(timeout)
        self.url = f"{self._issuer}/.well-known/openid-configuration"

    async def __call__(self, url: str) -> bytes:
        """Return the JWK set. Raises `FetchError` and `OSError`."""
        keys = self._keys_of(await self._fetch(url))
        return await self._fetch(keys)

    def _keys_of(self, body: bytes) -> str:
        try:
            document: Any = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        issuer = document.get("issuer") if isinstance(document, dict) else None
        if not isinstance(issuer, str):
            raise FetchError("The response is not an OpenID Connect configuration.")
        if issuer.rstrip("/") != self._issuer:
            raise FetchError(
                "The configuration names another issuer than the one it was fetched for."
            )
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise FetchError("The configuration names no jwks_uri.")
        try:
            check_url("jwks_uri", url, insecure_http=self._insecure_http)
        except ValueError as error:
            raise FetchError(str(error)) from None
        return url
