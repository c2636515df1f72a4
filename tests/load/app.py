"""The application that is loaded: rooms that are everybody's, and one token that is.

`trioserver serve tests.load.app:make` runs it, for the tests that need it in another process.
"""

from __future__ import annotations

import trio

from trioserver import Application, Connection, JWTAuth, Refusal, allow_any_user

SECRET = "a secret of these tests, which opens nothing else"


def make() -> Application:
    app = Application(auth=JWTAuth(secret=SECRET))
    rooms = app.route("/ws/rooms/{room_id}", authorize=allow_any_user)

    @rooms.on("echo")
    def echo(connection: Connection, payload: dict[str, str]) -> dict[str, str]:
        return {**payload, "user": connection.user.id}

    @rooms.on("nap")
    async def nap(connection: Connection, seconds: float) -> None:
        await trio.sleep(seconds)

    @rooms.on("full")
    def full(connection: Connection) -> None:
        raise Refusal("unavailable", "The room is full.")

    @rooms.allow_subscribe
    @rooms.allow_publish
    def may(connection: Connection, topic: str) -> bool:
        return topic == "news"

    return app
