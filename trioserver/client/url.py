"""`WebSocketURL`: a parsed ``ws://`` or ``wss://`` URL."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

import attrs

from trioserver.logs.paths import masked_path

_PORTS: Final = {"ws": 80, "wss": 443}


@attrs.frozen(kw_only=True)
class WebSocketURL:
    """A parsed ``ws://`` or ``wss://`` URL. Its repr and text omit the query, which may hold a
    secret."""

    host: str
    port: int
    secure: bool
    path: str = attrs.field(repr=lambda path: repr(masked_path(path)))
    query: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> WebSocketURL:
        """Raises `ValueError` if it is not a WebSocket URL (RFC 6455, section 3)."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("a WebSocket URL looks like ws://host:port/path or wss://host/path")
        if parts.fragment or parts.username is not None:
            raise ValueError("a WebSocket URL must not contain a fragment, user or password")
        return cls(
            host=parts.hostname,
            port=parts.port or _PORTS[parts.scheme],
            secure=parts.scheme == "wss",
            path=quote(parts.path, safe="/%:@!$&'()*+,;=~-._") or "/",
            query=parts.query,
        )

    def __str__(self) -> str:
        """For logs and reprs: without the query, and with possible tokens in the path masked."""
        return f"{self._scheme}://{self.authority}{masked_path(self.path)}"

    @property
    def _scheme(self) -> str:
        return "wss" if self.secure else "ws"

    @property
    def authority(self) -> str:
        """The value of the Host header. The scheme's default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self._scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, as in the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_token(self, token: str, heartbeat: str | None = None) -> WebSocketURL:
        """Add ``token=`` to the query, and ``heartbeat=`` if it is not None."""
        pairs = [f"token={quote(token, safe='')}"]
        if heartbeat is not None:
            pairs.append(f"heartbeat={heartbeat}")
        return attrs.evolve(self, query="&".join(filter(None, (self.query, *pairs))))
