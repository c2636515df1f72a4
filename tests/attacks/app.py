"""The application that is attacked. `tests.attacks.server` serves it in a process of its own."""

from __future__ import annotations

import os
from typing import Any

import trio

from trioserver import Application, Connection, JWTAuth, Route, allow_any_user
from trioserver.auth import SQLAuthorizer

SECRET = "a secret of these tests, which opens nothing else"

_MAY_ENTER = "SELECT 1 FROM rooms WHERE id = :room_id AND length(:user_id) > 0"

_EVENT = "x" * 10_000


class Site:
    """The ASGI application beside it. ``/seen`` says for which paths requests have reached it."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/seen":
            body = " ".join(sorted(self._seen)).encode()
        else:
            self._seen.add(scope["path"])
            while (await receive()).get("more_body"):
                pass
            body = b"ok"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def make() -> Application:
    """With ``ROOMS`` in the environment, a database's URL, there are rooms that somebody owns."""
    app = Application(auth=JWTAuth(secret=SECRET), http=Site())
    _serve(app.route("/ws", authorize=allow_any_user))
    if "ROOMS" in os.environ:
        may_enter = SQLAuthorizer(os.environ["ROOMS"], query=_MAY_ENTER)
        _serve(app.route("/rooms/{room_id}", authorize=may_enter))
    return app


def _serve(route: Route) -> None:
    @route.on("echo")
    def echo(connection: Connection, data: Any) -> Any:
        return data

    @route.on("page")
    def page(connection: Connection) -> str:
        return _EVENT

    @route.on("wait")
    async def wait(connection: Connection, data: Any) -> None:
        await trio.sleep(25.0)

    @route.on("announce")
    def announce(connection: Connection, topic: str) -> None:
        connection.application.publish(topic, _EVENT)

    @route.allow_subscribe
    def may_subscribe(connection: Connection, topic: str) -> bool:
        return True
