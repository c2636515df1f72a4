"""Responses of the built-in routes, with headers that restrict what a browser does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def secured(headers: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the headers of every response; ``headers`` are added, and take precedence."""
    return {**_HEADERS, **(headers or {})}


def plain(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with one line of text."""
    return Response(
        text + "\n", status, headers=secured(headers), media_type="text/plain; charset=utf-8"
    )


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a value as JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers=secured(headers), media_type="application/json")
