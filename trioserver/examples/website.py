"""The pages of the systems, and the JavaScript client that they use, under a strict policy.

The pages are files in ``pages/`` beside this one: HTML, CSS and JavaScript modules, as they are.
They are read at the start, so that nothing a request says is ever the name of a file. What a
browser may do with them is in `POLICY`: it runs and shows what comes from here, and nothing else,
not even a script or a style that stands in a page; it talks with this server only.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import attrs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import trioserver
from trioserver import Application

PAGES: Final = ("login", "dashboard", "tester", "conversation", "coach")
"""Each has an address of its own, ``/login``, beside the index at ``/``."""

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",  # WebSockets of this server too
        "base-uri 'none'",
        "form-action 'none'",  # forms are sent by scripts; never by the browser, into a URL
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text never becomes markup
    )
)

HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and asked about each time: see the ETag
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@attrs.frozen
class File:
    """What is sent. ``tag`` changes with it (RFC 9110, section 8.8.3)."""

    body: bytes = attrs.field(repr=False)
    type: str
    tag: str


def make() -> Application:
    """The application: pages only, no WebSocket."""
    routes = [_route(path, file) for path, file in read().items()]
    return Application(http=Starlette(routes=routes, exception_handlers={HTTPException: _explain}))


def read() -> dict[str, File]:
    """All files, by the path at which they are."""
    package = files(trioserver)
    pages = package / "examples" / "pages"
    found = {"/static/trioserver.js": _file(package / "http" / "static" / "trioserver.js")}
    for entry in pages.iterdir():
        if not entry.name.endswith(".html"):
            found[f"/static/{entry.name}"] = _file(entry)
    for name in PAGES:
        found[f"/{name}"] = _file(pages / f"{name}.html")
    return found | {"/": _file(pages / "index.html")}


def _file(entry: Traversable) -> File:
    body = entry.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:32]
    return File(body, TYPES[entry.name[entry.name.rindex(".") :]], f'"{tag}"')


def _route(path: str, file: File) -> Route:
    headers = {**HEADERS, "ETag": file.tag}

    async def answer(request: Request) -> Response:
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers=headers, media_type=file.type)

    return Route(path, answer, methods=["GET"])


async def _explain(request: Request, error: Exception) -> Response:
    """For all addresses of the server that nobody knows."""
    assert isinstance(error, HTTPException), "registered for this only"
    text = {404: "There is nothing at this address.", 405: "This method is not allowed here."}
    headers = {**HEADERS, **(error.headers or {}), "Cache-Control": "no-store"}
    return Response(
        text.get(error.status_code, error.detail) + "\n",
        error.status_code,
        headers=headers,
        media_type="text/plain; charset=utf-8",
    )
