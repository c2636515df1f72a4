"""Choose the mounted ASGI application that answers a request.

1. The first Starlette or FastAPI application with a route for the path and the method; otherwise
   the first with a route for the path, which answers 405.
2. Otherwise the other ASGI application with the longest ``http_prefix`` that the path starts with.
3. Otherwise 426 if the path is that of a WebSocket route; or the first Starlette or FastAPI
   application answers 404 in its own way; or 404.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from trioserver.app.application import Application
from trioserver.http.pages import plain

_WEBSOCKET: Final = (
    "This is a WebSocket endpoint. Connect with a WebSocket client, to ws:// or wss://."
)


@attrs.frozen(kw_only=True)
class Mounted:
    """An ASGI application, the `Application` it belongs to, and the ``state`` of its lifespan."""

    asgi: ASGIApp
    application: Application
    state: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """The prefix of its paths: "", or for example "/shop"."""
        return self.application.http_prefix

    def has_below(self, path: str) -> bool:
        """Return whether the path is the prefix or below it."""
        return not self.prefix or path == self.prefix or path.startswith(self.prefix + "/")

    def scope(self, scope: Scope) -> Scope:
        """Return the scope as the application sees it."""
        return {
            **scope,
            "root_path": scope.get("root_path", "") + self.prefix,
            "state": {**self.state},
            "trioserver.application": self.application,
        }

    def match(self, scope: Scope) -> Match | None:
        """Return how its routes match; None if it has no list of routes."""
        routes = getattr(self.asgi, "routes", None)
        if routes is None:
            return None
        seen = self.scope(scope)
        paths = [seen["path"]]
        router = getattr(self.asgi, "router", self.asgi)
        if getattr(router, "redirect_slashes", False):  # it redirects these paths
            path = seen["path"]
            paths.append(path.rstrip("/") or "/" if path.endswith("/") else path + "/")
        for path in paths:
            found = {route.matches({**seen, "path": path})[0] for route in routes}
            for match in (Match.FULL, Match.PARTIAL):
                if match in found:
                    return match
        return Match.NONE


class Mounts:
    """All mounted applications as one, for requests that no built-in route matches."""

    def __init__(self, mounted: Iterable[Mounted], application: Application) -> None:
        self._mounted = tuple(mounted)
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self._choose(scope)
        if chosen is not None:
            await chosen.asgi(chosen.scope(scope), receive, send)
        elif self._application.match(scope["path"]) is not None:
            answer = plain(_WEBSOCKET, 426, {"Upgrade": "websocket", "Connection": "Upgrade"})
            await answer(scope, receive, send)
        else:
            await plain("There is no resource at this path.", 404)(scope, receive, send)

    def _choose(self, scope: Scope) -> Mounted | None:
        below = [mounted for mounted in self._mounted if mounted.has_below(scope["path"])]
        matches = [(mounted, mounted.match(scope)) for mounted in below]
        for wanted in (Match.FULL, Match.PARTIAL):
            for mounted, match in matches:
                if match is wanted:
                    return mounted
        opaque = [mounted for mounted, match in matches if match is None]
        if opaque:
            return max(opaque, key=lambda mounted: len(mounted.prefix))
        if self._application.match(scope["path"]) is not None:
            return None
        return next(_asked(matches), None)


def _asked(matches: Iterable[tuple[Mounted, Match | None]]) -> Iterator[Mounted]:
    return (mounted for mounted, match in matches if match is not None)
