"""The application that other people's clients talk to."""

from __future__ import annotations

import os
from typing import Any

from trioserver import Application, Connection, JWTAuth, allow_any_user


async def site(scope: Any, receive: Any, send: Any) -> None:
    """Answer any request with its method and its body."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    answer = scope["method"].encode() + b" " + body
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def make() -> Application:
    app = Application(auth=JWTAuth(secret=os.environ["INTEROP_SECRET"]), http=site)
    route = app.route("/ws", authorize=allow_any_user)

    @route.on("echo")
    def echo(connection: Connection, data: Any) -> Any:
        return data

    return app
