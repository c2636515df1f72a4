"""Which of the mounted ASGI applications a request is for.

1. Starlette and FastAPI are asked: the first whose routes have the path and the method; else the
   first whose routes have the path, which answers 405.
2. Any other ASGI application has everything below its ``http_prefix``; the longest one wins.
3. Nobody has it: 426 on the path of a WebSocket's route; else the first Starlette or FastAPI
   application answers in its own way, 404; else 404.
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
    "This address speaks WebSocket. Connect with a WebSocket client, to ws:// or wss://."
)


@attrs.frozen(kw_only=True)
class Mounted:
    """An ASGI application, whose it is, and what its lifespan has put into ``state``."""

    asgi: ASGIApp
    application: Application
    state: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """ "" or "/shop"."""
        return self.application.http_prefix

    def has_below(self, path: str) -> bool:
        """Whether the path is below the prefix."""
        return not self.prefix or path == self.prefix or path.startswith(self.prefix + "/")

    def scope(self, scope: Scope) -> Scope:
        """The scope as the application sees it."""
        return {
            **scope,
            "root_path": scope.get("root_path", "") + self.prefix,
            "state": {**self.state},
            "trioserver.application": self.application,
        }

    def match(self, scope: Scope) -> Match | None:
        """What its routes say; None where it cannot be asked."""
        routes = getattr(self.asgi, "routes", None)
        if routes is None:
            return None
        seen = self.scope(scope)
        paths = [seen["path"]]
        router = getattr(self.asgi, "router", self.asgi)
        if getattr(router, "redirect_slashes", False):  # it answers these as well
            path = seen["path"]
            paths.append(path.rstrip("/") or "/" if path.endswith("/") else path + "/")
        for path in paths:
            found = {route.matches({**seen, "path": path})[0] for route in routes}
            for match in (Match.FULL, Match.PARTIAL):
                if match in found:
                    return match
        return Match.NONE


class Mounts:
    """All of them as one ASGI application, for requests that no built-in route has."""

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
            await plain("There is nothing at this path.", 404)(scope, receive, send)

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
