"""The pages of the systems, and the JavaScript client that they use, under a strict policy.

The pages are files in ``pages/`` beside this one: HTML, CSS and JavaScript modules, as they are.
They are read at the start, so that nothing a request says is ever the name of a file. What a
browser may do with them is in `POLICY`: it runs and shows what comes from here, and nothing else,
not even a script or a style that stands in a page; it talks with this server only.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final
from urllib.parse import unquote

import attrs
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

import trioserver
from trioserver import Application

PAGES: Final = ("login", "dashboard", "tester", "conversation", "coach")
"""Names of the pages. Each has its own path, such as ``/login``; the index is ``/``."""

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


_UNSAFE: Final = re.compile(r"[\\\s\x00-\x1f\x7f-\x9f]")
"""Browsers drop white space from a URL, and read a backslash as a slash."""

_ELSEWHERE: Final = re.compile(r"//|(^|/)\.{1,2}(/|$)|[\\\x00-\x1f\x7f-\x9f]")
"""What may lead to another site: empty and dotted segments, backslashes, control characters."""


@attrs.frozen
class File:
    """A file to send. ``tag`` changes with its content (RFC 9110, section 8.8.3)."""

    body: bytes = attrs.field(repr=False)
    type: str
    tag: str


def make() -> Application:
    """Return the application, which has pages only and no WebSocket."""
    routes = [_route(path, file) for path, file in read().items()]
    handlers = {HTTPException: _error_page}
    return Application(http=Starlette(routes=routes, exception_handlers=handlers))


def read() -> dict[str, File]:
    """Return all files by path."""
    package = files(trioserver)
    pages = package / "examples" / "pages"
    static = package / "http" / "static"
    found = {"/static/trioserver.js": _file(static / "trioserver.js")}
    for entry in (static / "trioserver").iterdir():
        found[f"/static/trioserver/{entry.name}"] = _file(entry)
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
        if not all(map(is_own_path, request.query_params.getlist("next"))):
            return RedirectResponse(path, 303, headers={**HEADERS, "Cache-Control": "no-store"})
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers=headers, media_type=file.type)

    return Route(path, answer, methods=["GET"])


def is_own_path(text: str) -> bool:
    """Whether browsers, proxies and servers all take this for a path of the server it came from,
    however often they decode it.

    `session.js` has the same rule for where a page goes after the login. Here a link that leads
    elsewhere loses its ``next`` before the page is shown.
    """
    if not text.startswith("/") or _UNSAFE.search(text):
        return False
    path = re.split(r"[?#]", text, maxsplit=1)[0]
    for _ in range(4):
        if _ELSEWHERE.search(path):
            return False
        try:
            decoded = unquote(path, errors="strict")
        except UnicodeDecodeError:
            return False
        if decoded == path:
            return True
        path = decoded
    return False


async def _error_page(request: Request, error: Exception) -> Response:
    """Answer requests for unknown paths."""
    assert isinstance(error, HTTPException), "registered for this only"
    text = {
        404: "There is no resource at this path.",
        405: "This path does not support the method of the request.",
    }
    headers = {**HEADERS, **(error.headers or {}), "Cache-Control": "no-store"}
    return Response(
        text.get(error.status_code, error.detail) + "\n",
        error.status_code,
        headers=headers,
        media_type="text/plain; charset=utf-8",
    )
